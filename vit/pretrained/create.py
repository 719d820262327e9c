"""`vit.create`: a model by name, with new weights or somebody's."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from vit import classifier
from vit.classifier import Classifier
from vit.config import changed
from vit.pretrained.load import load
from vit.pretrained.registry import find

_log = logging.getLogger("vitral")


def create(
    name: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    trust_pickle: bool = False,
    **encoder: Any,
) -> Classifier:
    """A model by name, with new weights: `create("vit_s16", num_classes=10, image_size=(224, 320))`, or somebody's:
    `create("dinov2_s14", weights="hf:facebook/dinov2-small")`. `vit.models()` lists the names.

    weights: a .safetensors, .pth, .npz or .onnx file, a checkpoint folder, `timm:NAME` or `hf:OWNER/REPO`.
    num_classes: 1000 for a new model; with weights, None keeps the head they have (and 0 takes it off).
    image_size: (H, W), or the side of a square. `encoder`: fields of EncoderConfig (in_chans=1, patch_size=8,
    drop_path=.1). What had to be changed in the weights is said on the log `vitral`.
    Raises UserError on a name, a field or a size that does not exist, and on weights that do not fit.
    """
    if weights is not None:
        loaded = load(
            name, weights, num_classes=num_classes, image_size=image_size, trust_pickle=trust_pickle, **encoder
        )
        for note in loaded.notes:
            _log.warning("%s: %s", weights, note)
        return loaded.model
    classes = 1000 if num_classes is None else num_classes
    if name.startswith("vit_"):
        return classifier.create(name, num_classes=classes, image_size=image_size, **encoder)
    config = find(name).config
    if image_size is not None:
        encoder["image_size"] = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Classifier(replace(config, encoder=changed(config.encoder, encoder), num_classes=classes))
