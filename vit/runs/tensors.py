"""Reading the tensors of a weight file without running its code, and comparing them with those of a model."""

from __future__ import annotations

import argparse
import pickle
import types
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vit.errors import UserError, shown

WRAPPERS = ("model", "state_dict", "model_state_dict", "model_ema", "module", "teacher", "target_encoder")
"""Keys under which training scripts store the weights in a .pth file."""


def fit_tensors(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Raises UserError, with a list, if tensors are missing, unexpected or of another shape."""
    expected = model.state_dict()
    missing, extra = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    wrong = [
        f"{name} is {list(tensors[name].shape)}, the model has {list(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    problems = [
        f"{what} {shown(sorted(names))}"
        for what, names in (("missing:", missing), ("not in the model:", extra), ("wrong shape:", wrong))
        if names
    ]
    if problems:
        raise UserError(f"{source} does not fit the model. " + "; ".join(problems) + ".")


def load_tensors(file: str | Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """All tensors of a .safetensors file, or of a .pth/.pt/.bin file read without running its code.

    Raises UserError on a damaged file and, unless `trust_pickle`, on a pickle that would run code.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError(f"{file} does not exist (current folder: {Path.cwd()}).")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as f:
                return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is not a complete safetensors file: {error}. Fetch or save it again.") from None
    try:
        # Many training scripts store their arguments beside the weights; these two classes only hold values.
        with torch.serialization.safe_globals([argparse.Namespace, types.SimpleNamespace]):
            content = torch.load(file, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise UserError(
                f"{file} is not a complete PyTorch file: it is no pickle. Fetch or save it again."
            ) from None
        raise UserError(
            f"{file} is a pickle that would run code. It was refused, and nothing ran. Convert it to safetensors, "
            "or pass --trust-pickle if you trust its author."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"{file} is not a complete PyTorch file: {first_line(error)}. Fetch or save it again."
        ) from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{file} does not hold a dictionary of tensors.")
    return content


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type, without a period."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
