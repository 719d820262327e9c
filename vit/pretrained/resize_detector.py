"""A detector's weights for other classes, queries, groups, patches or another native input size."""

from __future__ import annotations

from torch import Tensor

from vit.detector.config import DetectorConfig
from vit.model.config import EncoderConfig
from vit.model.resize import refit_encoder


def refit_detector(
    tensors: dict[str, Tensor],
    encoder: EncoderConfig,
    own: dict[str, Tensor],
    config: DetectorConfig,
    *,
    new_head: bool = False,
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a detector, or of its encoder alone, with the encoder config `encoder` -> tensors for `config`, and a
    note about each change. New tensors are taken from `own`, the state of a new detector."""
    tensors, notes = refit_encoder(tensors, encoder, config.encoder)
    if "class_head.bias" not in tensors:
        return tensors, notes
    stored = len(tensors["class_head.bias"])
    if new_head or stored != config.num_classes:
        tensors |= {name: tensor for name, tensor in own.items() if "class_head." in name}
        notes.append(f"New class heads for {config.num_classes} classes (the weights have {stored}).")
    groups = number_of("selection", tensors)
    queries = len(tensors["query"]) // groups
    if (config.groups, config.queries) != (groups, queries):
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("selection.")}
        # The first groups are kept, further ones are new.
        kept |= {name: tensors.get(name, new) for name, new in own.items() if name.startswith("selection.")}
        kept |= {name: _resized(tensors[name], own[name], groups, config) for name in ("query", "query_box")}
        tensors = kept
        notes.append(f"{config.groups} x {config.queries} queries (the weights have {groups} x {queries}).")
    return tensors, notes


def number_of(part: str, tensors: dict[str, Tensor]) -> int:
    """The number of modules in a list: `part.0.`, `part.1.`, ..."""
    numbers = [name.removeprefix(f"{part}.").split(".")[0] for name in tensors if name.startswith(f"{part}.")]
    return 1 + max(map(int, numbers), default=-1)


def _resized(old: Tensor, new: Tensor, groups: int, config: DetectorConfig) -> Tensor:
    """Query tables [groups * queries, ...]: the part that both have is kept."""
    new = new.clone().unflatten(0, (config.groups, config.queries))
    old = old.unflatten(0, (groups, -1))
    g, q = min(groups, config.groups), min(old.shape[1], config.queries)
    new[:g, :q] = old[:g, :q]
    return new.flatten(0, 1)
