"""A detection head of queries on the plain ViT (LW-DETR, RF-DETR); knows no files, losses or training."""

from __future__ import annotations

from vit.detector.config import PRESETS, DetectorConfig, detector_changed, detector_preset
from vit.detector.model import Detector

__all__ = ["PRESETS", "Detector", "DetectorConfig", "detector_changed", "detector_preset"]
