"""Fine-tuning from given weights: another head, another input size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vit.model.classifier import Classifier
from vit.model.resize import refit
from vit.pretrained.load import RGB, load


def start_from(
    source: str,
    classes: tuple[str, ...],
    *,
    name: str | None = None,
    image_size: tuple[int, int] | None = None,
    trust_pickle: bool = False,
    **encoder: Any,
) -> tuple[Classifier, dict[str, Any], list[str]]:
    """A model for `classes` with given weights; a config with its preprocessing; and a note about each change.

    source: a checkpoint or run folder, a file of a public family, `timm:NAME` or `hf:OWNER/REPO`; name: the model, for
    a file (`dinov2_s14`). The head is new unless the checkpoint has exactly these classes in this order. Learned
    positions are resized to `image_size` (H, W). `encoder` overrides fields of EncoderConfig that have no weights
    (dropout, drop_path).
    """
    loaded = load(name, source, image_size=image_size, in_chans=RGB, trust_pickle=trust_pickle, **encoder)
    model, notes = loaded.model, list(loaded.notes)
    if tuple(loaded.config.get("classes", ())) != tuple(classes):
        model, changes = refit(model, replace(model.config, num_classes=len(classes)), new_head=True)
        notes += changes
    return model.train(), {**loaded.config, "preprocess": loaded.preprocess.to_dict()}, notes
