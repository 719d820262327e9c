"""Models without values, to be filled with weights from a file: no random values are drawn that the file overwrites.

The meta device alone allocates nothing, but layers would still run their initialization, which is half of the time to
make them; and `load_state_dict` passes over a model three times where once is enough.
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


def unfilled(make: Callable[[], M]) -> M:
    """The model that `make` builds, on the meta device, without initialization."""
    with torch.device("meta"), ExitStack() as stack:
        for layer in LAYERS:
            stack.enter_context(patch.object(layer, "reset_parameters", _unless_meta(layer.reset_parameters)))
        return make()


def _unless_meta(reset: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    """The patch is global: layers of other threads, which are on a real device, initialize as ever."""

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
    """The slot of every tensor in the state dict of a model."""
    found = []
    for prefix, module in model.named_modules():
        start = prefix + "." if prefix else ""
        for kept in (module._parameters, module._buffers):
            for key, value in kept.items():
                if value is not None and key not in module._non_persistent_buffers_set:
                    found.append(Slot(start + key, kept, key))
    return found


def fill(places: list[Slot], tensors: dict[str, Tensor]) -> None:
    """Put tensors into a model without a copy. Each tensor of the model must be given, in its shape."""
    for name, kept, key in places:
        old, new = kept[key], tensors[name]
        assert old.shape == new.shape, name
        kept[key] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
