"""Frozen features: a checkpoint or public weights as an encoder, and files of its features.

Letters: n images, D width, h w grid of patches.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vit.errors import UserError
from vit.pretrained.load import RGB, load
from vit.tasks.classification.predict import Predictor
from vit.version import version


def open_encoder(
    source: str, *, model: str | None = None, image_size: int | None = None, device: str = "auto"
) -> tuple[Predictor, list[str]]:
    """A predictor for features, and a note about each change to the weights.

    source: a checkpoint or run folder, or public weights (a file with the name of its `model`, `timm:NAME`,
    `hf:OWNER/REPO`), which come without classes. Raises UserError as `vit.pretrained.load` does.
    """
    loaded = load(model, source, image_size=image_size, in_chans=RGB)
    config = {"classes": (), **loaded.config, "preprocess": loaded.preprocess.to_dict()}
    return Predictor(loaded.model, config, device=device), list(loaded.notes)


def how_made(predictor: Predictor, features: str, *, weights: str, name: str | None = None) -> dict[str, Any]:
    """The settings that must match for features to be comparable, as plain values."""
    model: Any = predictor.model
    return {
        "vitral": version(),
        "weights": weights,
        "name": name,
        "features": features,
        "preprocess": predictor.preprocess.to_dict(),
        "model": model.config.to_dict(),
    }


def write_features(path: Path, rows: Iterable[tuple[str, Tensor]], made: dict[str, Any]) -> tuple[int, ...]:
    """Write rows (name, float32 [D] or [h, w, D] on the CPU) to an .npz file atomically; the shape written.

    The file holds `features` float32 [n, ...], `files` (unicode [n]) and `made` (JSON), and no pickles. Rows are
    buffered on disk, so that patch features need little memory. Without rows nothing is written, and the shape is ().
    Raises UserError if the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    names: list[str] = []
    shape: tuple[int, ...] = ()
    try:
        with tempfile.TemporaryFile(dir=path.parent) as buffer:
            for name, value in rows:
                buffer.write(value.numpy().tobytes())
                names.append(name)
                shape = (len(names), *value.shape)
            if not names:
                return ()
            buffer.flush()
            features = np.memmap(buffer, np.float32, "r", shape=shape)
            with part.open("wb") as file:
                np.savez(file, features=features, files=np.array(names), made=np.array(json.dumps(made)))
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Choose another path.") from None
    finally:
        part.unlink(missing_ok=True)
    return shape
