"""The tensors of a TorchScript archive, as OpenAI publishes CLIP, read without its code.

Such an archive is a zip: `data.pkl` describes the tree of modules, whose classes the archive defines, and each `data/N`
holds the values of a tensor. Here every module becomes an empty object with its stored attributes. Apart from modules,
the pickle may name only what rebuilds a tensor; `code/` is never read.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit.errors import UserError

STORED = {
    f"{kind}Storage": dtype
    for kind, dtype in (
        ("Double", torch.float64), ("Float", torch.float32), ("Half", torch.float16), ("BFloat16", torch.bfloat16),
        ("Long", torch.int64), ("Int", torch.int32), ("Short", torch.int16), ("Char", torch.int8),
        ("Byte", torch.uint8), ("Bool", torch.bool),
    )
}  # fmt: skip


def is_torchscript(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def torchscript(file: Path) -> dict[str, Tensor]:
    """Tensors under the names of the saved module's `state_dict`. Raises UserError on a damaged file, and on a pickle
    that names anything but tensors and modules."""
    try:
        with zipfile.ZipFile(file) as archive:
            (description,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            tree = _Tree(archive, description.removesuffix("data.pkl")).load()
    except _Refused as error:
        raise UserError(f"{file} is a pickle that would run code ({error}). It was refused, and nothing ran.") from None
    except Exception as error:  # zip, pickle and torch raise many kinds of errors on damaged files
        raise UserError(f"{file} is not a complete TorchScript file: {error}. Fetch it again.") from None
    return dict(_tensors(tree, ""))


class _Refused(Exception):
    """Its text is the name that the pickle asked for."""


class _Module:
    """Any class of the archive."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Tree(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(folder + "data.pkl")))
        self.archive, self.folder = archive, folder
        self.kept: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in STORED:
            return STORED[name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, kind: value
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """("storage", dtype, key, place, number of values) -> the values, flat."""
        _, dtype, key, *_ = pid
        if key not in self.kept:
            values = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            self.kept[key] = torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)
        return self.kept[key]


def _tensor(values: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return values.as_strided(tuple(size), tuple(stride), offset)


def _tensors(node: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield name, node
    elif isinstance(node, _Module) and isinstance(node.state, dict):
        for key, value in node.state.items():
            yield from _tensors(value, f"{name}.{key}" if name else key)
