"""Checkpoints of a model that no process holds as a whole, through torch.distributed.checkpoint.

`last/sharded/` has the tensors, each process's part in a file of its own; they can be read by any number of processes.
`vitral gather` makes one safetensors file of them.
"""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vit.errors import UserError
from vit.optim.optimizers import Ema
from vit.processes.world import World

AVERAGE, OWN = "ema.", "model."
"""What the names of weights begin with in the files."""


def tensors_of(model: nn.Module, optimizers: Sequence[Optimizer], ema: Ema | None) -> dict[str, Any]:
    """All tensors that training changes, as torch.distributed.checkpoint takes them: each process its own part."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    return {
        "model": get_model_state_dict(model),
        # Its groups, which are no tensors, follow from the recipe.
        "optimizer": get_optimizer_state_dict(model, list(optimizers))["state"],
        "ema": ema.state if ema is not None else {},
    }


def read_tensors(folder: Path, model: nn.Module, optimizers: Sequence[Optimizer], ema: Ema | None) -> None:
    """Put what `save_sharded` wrote in place, whatever number of processes wrote it."""
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_model_state_dict,
        set_optimizer_state_dict,
    )
    from torch.distributed.checkpoint.state_dict_loader import load

    tensors = tensors_of(model, optimizers, ema)
    load(tensors, storage_reader=_reader(folder))  # into the tensors that are there
    set_model_state_dict(model, tensors["model"])
    groups = get_optimizer_state_dict(model, list(optimizers))["param_groups"]
    set_optimizer_state_dict(model, list(optimizers), {"state": tensors["optimizer"], "param_groups": groups})


def save_sharded(stage: Path, tensors: dict[str, Any], world: World, publish: Callable[[Path], None]) -> None:
    """Every process writes its part into `stage`; the first then calls `publish` with it."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    def clear() -> None:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)

    world.on_main(clear)
    save(tensors, storage_writer=FileSystemWriter(stage, sync_files=True))
    world.on_main(lambda: publish(stage))


def whole(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor as a whole, on the CPU; all processes call this together."""
    from torch.distributed.tensor import DTensor

    return {k: (v.full_tensor() if isinstance(v, DTensor) else v).detach().cpu() for k, v in weights.items()}


def weights_in(folder: Path) -> dict[str, Tensor]:
    """The weights to predict with (their average where there is one) of a folder of shards, in one process."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = _reader(folder)
    stored = reader.read_metadata().state_dict_metadata
    prefix = AVERAGE if any(name.startswith(AVERAGE) for name in stored) else OWN
    found: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant to be
        load(found, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


_METADATA = "torch.distributed.checkpoint.metadata"
_KNOWN = {
    (_METADATA, name)
    for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"), ("torch", "Size"),
    ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
}  # fmt: skip


class _Index(pickle.Unpickler):
    """The index of the shards is a pickle: of it nothing is taken but what torch writes there, which holds values."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _reader(folder: Path) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            file = folder / ".metadata"
            try:
                with file.open("rb") as stream:
                    metadata = _Index(stream).load()
            except (pickle.UnpicklingError, OSError, EOFError, AttributeError, ValueError) as error:
                raise UserError(f"{file} is not the index of a sharded checkpoint: {error}. Nothing ran.") from None
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(folder)
