"""Weight files: names and shapes are read at once, each tensor when it is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vit.errors import UserError, shown
from vit.pretrained.files.card import CONFIG, NOTHING, OURS, Card, folder_card, our_card
from vit.pretrained.files.shards import INDEX, open_shards
from vit.pretrained.files.torchscript import is_torchscript, torchscript
from vit.runs.tensors import load_tensors

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz", ".onnx", INDEX)
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
"""Names under which a Hugging Face folder may keep its weights, in the order they are tried."""


@dataclass(frozen=True)
class Source:
    """The tensors of a file by name, read lazily so that weights are never in memory twice."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    get: Callable[[str], Tensor]
    card: Card = NOTHING

    @classmethod
    def of(cls, tensors: dict[str, Tensor], name: str, card: Card = NOTHING) -> Source:
        return cls(name, {key: tuple(value.shape) for key, value in tensors.items()}, tensors.__getitem__, card)


def open_source(file: str | Path, *, trust_pickle: bool = False) -> Source:
    """Open a .safetensors, .pth/.pt/.bin (read without running its code), .npz or .onnx file, the index of several, or
    a folder of Hugging Face's; with the card of a config.json of Hugging Face's beside it.

    Raises UserError, naming the file, if it is missing, damaged, of another kind, or would run code.
    """
    file = Path(file).expanduser()
    if is_foreign_folder(file):
        inside = [file / name for name in FILES if (file / name).is_file()]
        if not inside:
            raise UserError(f"{file} has a {CONFIG} but no weights. Put one of {shown(FILES)} there.")
        file = inside[0]
    source = _open(file, trust_pickle)
    beside = file.name in FILES and is_foreign_folder(file.parent)
    return replace(source, card=folder_card(file.parent)) if beside else source


def _open(file: Path, trust_pickle: bool) -> Source:
    if not file.is_file():
        raise UserError(f"{file} does not exist (current folder: {Path.cwd()}).")
    if not file.name.endswith(SUFFIXES):
        raise UserError(f"{file}: weights are read from {', '.join(SUFFIXES)} files.")
    if file.name.endswith(INDEX):
        return Source(str(file), *open_shards(file, partial(_open, trust_pickle=trust_pickle)))
    if file.suffix == ".safetensors":
        return _safetensors(file)
    if file.suffix == ".npz":
        return _npz(file)
    if file.suffix == ".onnx":
        return Source.of(_onnx(file), str(file))
    script = is_torchscript(file)
    return Source.of(torchscript(file) if script else load_tensors(file, trust_pickle=trust_pickle), str(file))


def is_foreign_folder(path: str | Path) -> bool:
    """Whether Hugging Face's `save_pretrained` wrote this folder; our checkpoints have a config.json, too."""
    try:
        config = json.loads((Path(path).expanduser() / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config


def _safetensors(file: Path) -> Source:
    try:
        opened = safe_open(file, framework="pt")
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        ours = (opened.metadata() or {}).get(OURS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a complete safetensors file: {error}. Fetch or save it again.") from None
    return Source(str(file), shapes, opened.get_tensor, our_card(ours, str(file)) if ours else NOTHING)


def _npz(file: Path) -> Source:
    try:
        with file.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            values = {key: arrays[key] for key in arrays.files}
    except Exception as error:  # numpy raises many kinds of errors on damaged files
        raise UserError(f"{file} is not a complete .npz file: {error}. Fetch it again.") from None
    tensors = {}
    for key, value in values.items():
        if value.dtype.name == "void16":  # bfloat16 as big_vision writes it
            tensors[key] = torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
        elif value.dtype.kind in "fiu":
            tensors[key] = torch.from_numpy(value)
        else:
            raise UserError(
                f"{file}: {key} has type {value.dtype}, which is not a number. This is not a file of weights."
            )
    return Source.of(tensors, str(file))


def _onnx(file: Path) -> dict[str, Tensor]:
    """Initializers by name. Exporters store the matrices of linear layers transposed and under generated names; these
    are renamed after the node that multiplies by them. Positions that an exporter split in two are joined."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise UserError(f"{file}: reading ONNX files needs the package onnx: pip install onnx.") from None
    try:
        graph = onnx.load(str(file)).graph
        values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    except Exception as error:  # protobuf's errors have no common base
        raise UserError(f"{file} is not a complete ONNX file: {error}. Fetch it again.") from None
    named: dict[str, Tensor] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in values:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".") + ".weight"
            named[name] = values.pop(node.input[1]).T
    generated = [name for name in values if name.startswith("onnx::")]
    pieces = sorted((values[name] for name in generated if values[name].ndim == 3), key=lambda t: t.shape[1])
    tokens = [name for name in values if name.endswith("embeddings.cls_token")]
    if len(pieces) == 2 and pieces[0].shape[1] == 1 and len(tokens) == 1:
        values = {name: value for name, value in values.items() if name not in generated}
        named[tokens[0].replace("cls_token", "position_embeddings")] = torch.cat(pieces, dim=1)
    return {**values, **named}
