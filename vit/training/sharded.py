"""Checkpoints of a sharded model, through torch.distributed.checkpoint.

`last/sharded/` has one file per process; any number of processes can read them. `vitral gather` merges them into one
safetensors file.
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
"""Prefixes of the names of weights in the files."""


def tensors_of(model: nn.Module, optimizers: Sequence[Optimizer], ema: Ema | None) -> dict[str, Any]:
    """All tensors that training changes, for torch.distributed.checkpoint: this process's shards."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    return {
        "model": get_model_state_dict(model),
        # Parameter groups hold no tensors; the recipe determines them.
        "optimizer": get_optimizer_state_dict(model, list(optimizers))["state"],
        "ema": ema.state if ema is not None else {},
    }


def read_tensors(folder: Path, model: nn.Module, optimizers: Sequence[Optimizer], ema: Ema | None) -> None:
    """Load what `save_sharded` wrote, by any number of processes."""
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_model_state_dict,
        set_optimizer_state_dict,
    )
    from torch.distributed.checkpoint.state_dict_loader import load

    tensors = tensors_of(model, optimizers, ema)
    load(tensors, storage_reader=_reader(folder))  # in place
    set_model_state_dict(model, tensors["model"])
    groups = get_optimizer_state_dict(model, list(optimizers))["param_groups"]
    set_optimizer_state_dict(model, list(optimizers), {"state": tensors["optimizer"], "param_groups": groups})


def save_sharded(stage: Path, tensors: dict[str, Any], world: World, publish: Callable[[Path], None]) -> None:
    """Every process writes its shards into `stage`; the main one then calls `publish` with it."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    def clear() -> None:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)

    world.on_main(clear)
    save(tensors, storage_writer=FileSystemWriter(stage, sync_files=True))
    world.on_main(lambda: publish(stage))


def whole(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor gathered, on the CPU; all processes must call this together."""
    from torch.distributed.tensor import DTensor

    return {k: (v.full_tensor() if isinstance(v, DTensor) else v).detach().cpu() for k, v in weights.items()}


def weights_in(folder: Path) -> dict[str, Tensor]:
    """The weights for prediction (their average if there is one) from a folder of shards, in one process."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = _reader(folder)
    stored = reader.read_metadata().state_dict_metadata
    prefix = AVERAGE if any(name.startswith(AVERAGE) for name in stored) else OWN
    weights: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # on purpose
        load(weights, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


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
    """An unpickler for the index of the shards that loads only the value types that torch writes."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it loads {module}.{name}")


def _reader(folder: Path) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            file = folder / ".metadata"
            try:
                with file.open("rb") as stream:
                    metadata = _Index(stream).load()
            except (pickle.UnpicklingError, OSError, EOFError, AttributeError, ValueError) as error:
                raise UserError(f"{file} is not the index of a sharded checkpoint: {error}. No code ran.") from None
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(folder)
