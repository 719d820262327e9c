"""Frozen features: weights of ours or of the public as an encoder, and files of what it gives.

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
    """A checkpoint or run folder, or public weights (a file with the name of its `model`, `timm:NAME`,
    `hf:OWNER/REPO`), for its features; also a line about each thing that was changed in the weights.

    Public weights come without classes: such a predictor gives features, no labels. Raises UserError as
    `vit.pretrained.load` does.
    """
    loaded = load(model, source, image_size=image_size, in_chans=RGB)
    config = {"classes": (), **loaded.config, "preprocess": loaded.preprocess.to_dict()}
    return Predictor(loaded.model, config, device=device), list(loaded.notes)


def how_made(predictor: Predictor, features: str, *, weights: str, name: str | None = None) -> dict[str, Any]:
    """What must be equal for features to be comparable, as plain values."""
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
    """Write an .npz file, whole or not at all, of rows (name, float32 [D] or [h, w, D] on the CPU); the shape written.

    It holds `features` float32 [n, ...], `files` (unicode [n]) and `made` (a JSON text), and no pickles. The rows wait
    on the disk, so that patches of many images need no memory. Without any row nothing is written, and the shape is ().
    Raises UserError when the disk refuses.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    names: list[str] = []
    shape: tuple[int, ...] = ()
    try:
        with tempfile.TemporaryFile(dir=path.parent) as waiting:
            for name, value in rows:
                waiting.write(value.numpy().tobytes())
                names.append(name)
                shape = (len(names), *value.shape)
            if not names:
                return ()
            waiting.flush()
            features = np.memmap(waiting, np.float32, "r", shape=shape)
            with part.open("wb") as file:
                np.savez(file, features=features, files=np.array(names), made=np.array(json.dumps(made)))
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Choose another place.") from None
    finally:
        part.unlink(missing_ok=True)
    return shape
