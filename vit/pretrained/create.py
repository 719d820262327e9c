"""`vit.create`: a model by name, with new weights or somebody's."""

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
"""How the names of detectors begin; what they are is in `vit.detector`, which a classifier does not load."""

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
    """A model by name, with new weights: `create("vit_s16", num_classes=10, image_size=(224, 320))`, or somebody's:
    `create("dinov2_s14", weights="hf:facebook/dinov2-small")`, `create("rfdetr_nano", weights="rf-detr-nano.pth")`,
    `create("rfdetr_nano", encoder="dinov2_s14", weights="hf:facebook/dinov2-small")`. `vit.models()` lists the names.

    weights: a .safetensors, .pth, .npz or .onnx file, a checkpoint folder or one of Hugging Face's, `timm:NAME` or
    `hf:OWNER/REPO`.
    encoder: a detector's only: whose weights these are, if they are a plain encoder's.
    num_classes: 1000 for a new classifier; with weights, None keeps the head they have, 0 takes a classifier's off.
    image_size: (H, W), or the side of a square. `fields`: of EncoderConfig (in_chans=1, patch_size=8, drop_path=.1),
    for a detector also of DetectorConfig (queries=100). What had to be changed in the weights is said on the log
    `vitral`.
    Raises UserError on a name, a field or a size that does not exist, and on weights that do not fit.
    """
    if name.startswith(DETECTORS):
        # By name, at the first detector: a classifier loads no detection code.
        load_detector: Any = import_module("vit.pretrained.load_detector")
        detector, notes = load_detector.create_detector(
            name, weights=weights, num_classes=num_classes, image_size=image_size, trust_pickle=trust_pickle, **fields
        )
        _tell(weights, notes)
        return detector.train(weights is None)
    if weights is not None:
        loaded = load(
            name, weights, num_classes=num_classes, image_size=image_size, trust_pickle=trust_pickle, **fields
        )
        _tell(weights, loaded.notes)
        return loaded.model
    classes = 1000 if num_classes is None else num_classes
    if name.startswith("vit_"):
        return classifier.create(name, num_classes=classes, image_size=image_size, **fields)
    config = find(name).config
    if image_size is not None:
        fields["image_size"] = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Classifier(replace(config, encoder=changed(config.encoder, fields), num_classes=classes))


def _tell(weights: object, notes: list[str] | tuple[str, ...]) -> None:
    for note in notes:
        _log.warning("%s: %s", weights, note)
