"""Models without values, for weights that come from a file: what is overwritten anyway is not drawn first.

The meta device alone allocates nothing, but the layers still go through the motions of their initialization, which is
half the time that making them takes; and `load_state_dict` passes over a model three times where one will do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
LAYERS: tuple[Any, ...] = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Conv2d)


def bare(make: Callable[[], M]) -> M:
    """What `make` builds, on the meta device."""
    with torch.device("meta"), ExitStack() as stack:
        for layer in LAYERS:
            stack.enter_context(patch.object(layer, "reset_parameters", _unless_bare(layer.reset_parameters)))
        return make()


def _unless_bare(reset: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    """Other threads, whose layers are on a real device, notice nothing."""

    def reset_parameters(self: Any) -> None:
        if not self.weight.is_meta:
            reset(self)

    return reset_parameters


class Slot(NamedTuple):
    """Where a module keeps a tensor."""

    name: str
    kept: dict[str, Any]
    key: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.kept[self.key].shape)


def slots(model: nn.Module) -> list[Slot]:
    """Of every tensor that a state_dict of the model has."""
    found = []
    for prefix, module in model.named_modules():
        start = prefix + "." if prefix else ""
        for kept in (module._parameters, module._buffers):
            for key, value in kept.items():
                if value is not None and key not in module._non_persistent_buffers_set:
                    found.append(Slot(start + key, kept, key))
    return found


def fill(places: list[Slot], tensors: dict[str, Tensor]) -> None:
    """Put the tensors into a model, without a copy. Each of its tensors must be there, in its shape."""
    for name, kept, key in places:
        old, new = kept[key], tensors[name]
        assert old.shape == new.shape, name
        kept[key] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
