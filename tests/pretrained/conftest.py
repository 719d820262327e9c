"""What transformers answers, from one process for all tests."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import vit.pretrained.convert
from tests.pretrained.parity import random_model
from tests.pretrained.random_weights import images
from vit.model.classifier import Classifier
from vit.model.config import Size
from vit.pretrained.convert.certificate import ask
from vit.pretrained.convert.export import exported, save_folder
from vit.pretrained.registry.find import MODELS
from vit.pretrained.registry.model import Model

EXPORTS = {
    "vit": ("vit_ti16", 5), "vit bare": ("vit_ti16", 0), "deit": ("deit_ti16_distilled", 5), "dino": ("dino_s16", 0),
    "deit3": ("deit3_s16", 5), "flexivit": ("flexivit_s16", 5), "mae": ("mae_b16", 0), "ijepa": ("ijepa_h14", 5),
    "ijepa bare": ("ijepa_h14", 0), "beit": ("beit_b16", 5), "beit bare": ("beit_b16", 0), "tv": ("tv_b16", 5),
    "dinov2": ("dinov2_s14", 5), "dinov2 bare": ("dinov2_s14", 0), "dinov2 gated": ("dinov2_g14", 0),
    "dinov2 registers": ("dinov2_s14_reg4", 5), "dinov2 registers bare": ("dinov2_s14_reg4", 0),
    "dinov3": ("dinov3_s16", 0), "dinov3 gated": ("dinov3_s16plus", 0), "clip": ("clip_b16", 5),
    "openclip": ("openclip_b16", 5), "clip bare": ("clip_b16", 0), "siglip": ("siglip_b16", 0),
    "naflex": ("siglip2_b16_naflex", 0), "aimv2": ("aimv2_l14", 0),
}  # fmt: skip
"""case -> a name of the registry, classes of the head: everything that transformers has a class for."""


class Exported(NamedTuple):
    row: Model
    model: Classifier
    folder: Path


def tiny(row: Model, mlp: int = 96) -> Model:
    """A registry's row of width 48 and two blocks, at a native size of 4x4 patches."""
    top = {**row.top, "pool_mlp": 72} if "pool_mlp" in row.top else row.top
    return dataclasses.replace(row, size=Size(48, 2, 3, mlp), image_size=4 * row.patch, top=top)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Folders as `vitral convert --to hf` writes them, each with a question."""
    place, found = tmp_path_factory.mktemp("exports"), {}
    for case, (name, classes) in EXPORTS.items():
        row = tiny(MODELS[name], 128 if "gated" in case else 96)  # Dinov2 makes 128 of a ratio of 4
        model = random_model(dataclasses.replace(row.config, num_classes=classes))
        folder = place / case
        written = exported(model, "hf")
        save_folder(written, folder, row.preprocess, [f"klasse {i}" for i in range(classes)])
        ask(folder, written.config, images(row.image_size, row.image_size))
        found[case] = Exported(row, model, folder)
    return found


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory, exports: dict[str, Exported]) -> Path:
    """Where transformers' own models are, with their files and answers; those to `exports` are in its folders."""
    out = tmp_path_factory.mktemp("huggingface")
    script = Path(__file__).with_name("huggingface_process.py")
    peer = Path(vit.pretrained.convert.__file__).with_name("huggingface_process.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, script, out, peer, *(export.folder for export in exports.values())]
    done = subprocess.run(list(map(str, command)), cwd=out, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out
