"""Detection: a head of queries on the plain ViT (LW-DETR, RF-DETR)."""

from __future__ import annotations

from vit.detector.config import PRESETS, DetectorConfig, detector_changed, detector_preset
from vit.detector.model import Detector, Output

__all__ = ["PRESETS", "Detector", "DetectorConfig", "Output", "detector_changed", "detector_preset"]
