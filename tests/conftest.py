"""A small data set and a checkpoint trained on it, made once for all tests."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

COLORS = {"bluish": (40, 60, 200), "grün": (50, 190, 60), "red wine": (200, 50, 60)}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DIR/{train,val,test}/CLASS/*.png: noisy tiles of a color, 20 x 24 pixels.

    In val and test the last image of every class shows the next class's color: a mistake for any model that learned.
    """
    root = tmp_path_factory.mktemp("photos") / "ein Ordner"
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6), ("test", 5)):
        for k, name in enumerate(COLORS):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                odd = split != "train" and i == count - 1
                color = list(COLORS.values())[(k + odd) % len(COLORS)]
                tile = np.clip(rng.normal(color, 25, (20, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(tile).save(root / split / name / f"tile {i}.png")
    return root


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`.run`: a run folder with a checkpoint that tells the three colors apart; `.photos`, `.config`."""
    import torch
    from torch.nn import functional as F

    import datasets
    import vit
    from vit.checkpoint import save_checkpoint
    from vit.image import Preprocess

    data = datasets.open_data(str(photos))
    preprocess = Preprocess((16, 16), crop=0.9)
    torch.manual_seed(0)
    model = vit.create("vit_nano8", num_classes=3, image_size=16, width=32, depth=1, heads=2, mlp=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = next(iter(datasets.eval_loader(data.train, preprocess, batch_size=64)))
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(batch.images), batch.targets).backward()
        optimizer.step()
    config = {
        "task": "classification",
        "model": model.config.to_dict(),
        "classes": list(data.classes),
        "multilabel": False,
        "preprocess": preprocess.to_dict(),
        "temperature": None,
        "data": data.record,
        "augment": {"flip": 0.5},
    }
    run = tmp_path_factory.mktemp("runs") / "colors"
    save_checkpoint(run / "checkpoints" / "best", model.state_dict(), config)
    return SimpleNamespace(run=run, photos=photos, config=config, model=model.eval())
