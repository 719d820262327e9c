"""`vit.create`: a model by name, with new or public weights."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from vit.model import classifier
from vit.model.classifier import Classifier
from vit.model.config import changed
from vit.pretrained.load import load
from vit.pretrained.registry.find import find

if TYPE_CHECKING:
    from vit.detector import Detector

    DetectorName = Literal[
        "detector_nano", "rfdetr_nano", "rfdetr_small", "rfdetr_medium", "rfdetr_large",
        "lwdetr_tiny", "lwdetr_small", "lwdetr_medium", "lwdetr_large", "lwdetr_xlarge",
    ]  # fmt: skip

DETECTORS = ("detector_", "rfdetr_", "lwdetr_")
"""Prefixes of the names of detectors, which `vit.detector` defines; a classifier does not load that room."""

_log = logging.getLogger("vitral")


@overload
def create(
    name: DetectorName,
    *,
    weights: str | Path | None = None,
    encoder: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    trust_pickle: bool = False,
    **fields: Any,
) -> Detector: ...


@overload
def create(
    name: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    trust_pickle: bool = False,
    **fields: Any,
) -> Classifier: ...


def create(
    name: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    trust_pickle: bool = False,
    **fields: Any,
) -> Classifier | Detector:
    """A model by name, with new weights: `create("vit_s16", num_classes=10, image_size=(224, 320))`, or with given:
    `create("dinov2_s14", weights="hf:facebook/dinov2-small")`, `create("rfdetr_nano", weights="rf-detr-nano.pth")`,
    `create("rfdetr_nano", encoder="dinov2_s14", weights="hf:facebook/dinov2-small")`. `vit.models()` lists the names.

    weights: a .safetensors, .pth, .npz or .onnx file, a checkpoint folder or one of Hugging Face's, `timm:NAME` or
    `hf:OWNER/REPO`.
    encoder: for a detector only: the name of the encoder, if the weights are a plain encoder's.
    num_classes: None keeps the head of the weights, and means 1000 for a new classifier; 0 removes a classifier's head.
    image_size: (H, W), or the side of a square. `fields`: of EncoderConfig (in_chans=1, patch_size=8, drop_path=.1),
    for a detector also of DetectorConfig (queries=100). Changes to the weights are logged by the logger `vitral`.
    Raises UserError on an unknown name or field, and on a size or weights that do not fit.
    """
    if name.startswith(DETECTORS):
        # By name, at the first detector: a classifier loads no detection code.
        load_detector: Any = import_module("vit.pretrained.load_detector")
        detector, notes = load_detector.create_detector(
            name, weights=weights, num_classes=num_classes, image_size=image_size, trust_pickle=trust_pickle, **fields
        )
        _log_notes(weights, notes)
        return detector.train(weights is None)
    if weights is not None:
        loaded = load(
            name, weights, num_classes=num_classes, image_size=image_size, trust_pickle=trust_pickle, **fields
        )
        _log_notes(weights, loaded.notes)
        return loaded.model
    classes = 1000 if num_classes is None else num_classes
    if name.startswith("vit_"):
        return classifier.create(name, num_classes=classes, image_size=image_size, **fields)
    config = find(name).config
    if image_size is not None:
        fields["image_size"] = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Classifier(replace(config, encoder=changed(config.encoder, fields), num_classes=classes))


def _log_notes(weights: object, notes: list[str] | tuple[str, ...]) -> None:
    for note in notes:
        _log.warning("%s: %s", weights, note)
