"""Starting from somebody's weights: another head, another input size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vit.checkpoint import fit_tensors, load_model
from vit.classifier import Classifier
from vit.config import ClassifierConfig, EncoderConfig
from vit.position import resize_grid


def start_from(
    source: str,
    classes: tuple[str, ...],
    *,
    image_size: tuple[int, int] | None = None,
    **encoder: Any,
) -> tuple[Classifier, dict[str, Any], list[str]]:
    """A model for `classes` with the weights of the checkpoint `source`; its config; and what was changed, a line each.

    The head is new unless the checkpoint knows exactly these classes in this order. Learned positions are resized
    to `image_size` (H, W). `encoder` overrides fields of EncoderConfig that have no weights (dropout, drop_path).
    """
    old, config = load_model(source)
    tensors, notes = dict(old.state_dict()), []
    old_size = old.config.encoder.image_size
    size = image_size or old_size
    changed: EncoderConfig = replace(old.config.encoder, image_size=size, **encoder)
    model = Classifier(ClassifierConfig(changed, len(classes), old.config.pool, old.config.pool_norm))
    if size != old_size and changed.positions == "learned":
        name = "encoder.pos_embed"
        tensors[name] = resize_grid(
            tensors[name],
            old.config.encoder.grid,
            changed.grid,
            rule=changed.position_resize,
            prefix=changed.prefix_positions,
        )
        notes.append(f"positions resized from {old_size[0]}x{old_size[1]} to {size[0]}x{size[1]} pixels")
    if tuple(config["classes"]) != tuple(classes):
        for name in ("head.weight", "head.bias"):
            tensors[name] = model.state_dict()[name]
        notes.append(f"new head for {len(classes)} classes (the checkpoint knows {len(config['classes'])})")
    fit_tensors(model, tensors, source)
    model.load_state_dict(tensors)
    return model, config, notes
