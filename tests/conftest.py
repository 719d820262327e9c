"""A small data set and a checkpoint trained on it, made once for all tests."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("albumentations") and not find_spec("albumentations"):
        pytest.skip("albumentations is not installed")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for a busy core count as work, and MKL may divide the rows of a product unevenly among them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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

    import vit
    from vit.data import LabelReader, LoaderOptions, eval_loader, open_data
    from vit.images.preprocess import Preprocess
    from vit.runs.checkpoint import save_checkpoint

    data = open_data(str(photos), kind="labels")
    preprocess = Preprocess((16, 16), crop=0.9)
    torch.manual_seed(0)
    model = vit.create("vit_nano8", num_classes=3, image_size=16, width=32, depth=1, heads=2, mlp=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = next(iter(eval_loader(LabelReader(data.train, preprocess), LoaderOptions(batch_size=64))))
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


SHAPES = {"red": (210, 40, 40), "grün": (40, 170, 60), "blue": (50, 70, 220)}
SHAPE_IDS = {"red": 0, "grün": 7, "blue": 3}
"""Category ids with gaps and from 0, in another order than the names."""


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DIR/{train,valid,test}/_annotations.coco.json: images of three sizes with up to three colored rectangles; every
    sixth is empty. Image and annotation ids start at 0."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 48), ("valid", 18), ("test", 18)):
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            height, width = [(64, 64), (48, 80), (70, 56)][i % 3]
            pixels = rng.normal(rng.uniform(90, 190, 3), 14, (height, width, 3))
            taken = np.zeros((height, width), bool)
            for _ in range(0 if i % 6 == 5 else int(rng.integers(1, 4))):
                w, h = rng.integers(12, 29, 2).tolist()
                x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
                place, name = (slice(y, y + h), slice(x, x + w)), list(SHAPES)[int(rng.integers(3))]
                if taken[place].any():
                    continue
                taken[place] = True
                pixels[place] = rng.normal(SHAPES[name], 8, (h, w, 3))
                entry = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "category_id": SHAPE_IDS[name]}
                annotations.append({"id": len(annotations), "image_id": i, **entry})
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / split / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        categories = [{"id": k, "name": name} for name, k in SHAPE_IDS.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def detector(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """`.run`: a run folder with a detector that has learned the shapes a little; `.shapes`, `.config`."""
    import torch

    from vit.data.augment.boxes import BoxAugment, BoxPipeline
    from vit.data.load.box_reader import BoxReader
    from vit.data.load.loader import LoaderOptions, train_loader
    from vit.data.open import open_data
    from vit.detector import Detector, DetectorConfig
    from vit.images.preprocess import Preprocess
    from vit.model.config import EncoderConfig
    from vit.runs.checkpoint import save_checkpoint
    from vit.tasks.detection.build import checkpoint_config
    from vit.tasks.detection.loss import DetectionLoss
    from vit.tasks.detection.task import Detection

    data = open_data(str(shapes), kind="boxes")
    preprocess = Preprocess((64, 64), resize="letterbox", interpolation="bilinear")
    encoder = EncoderConfig(32, 1, 2, 64, patch_size=8, image_size=(64, 64), class_token=False, final_norm=False)
    torch.manual_seed(0)
    head = {"layers": 1, "heads": 2, "sampling_heads": 2, "points": 4, "mlp": 64, "queries": 12, "groups": 1}
    model = Detector(DetectorConfig(encoder, num_classes=3, taps=(1,), neck_blocks=1, width=32, **head))
    # With a second beta of 0.999 and 150 steps, one initialization in five finds nothing yet.
    loss, steps = DetectionLoss(3), 180
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    pipeline = BoxPipeline(BoxAugment(flip=0.5), preprocess)
    for batch in train_loader(
        BoxReader(data.train, preprocess, pipeline), LoaderOptions(batch_size=8, epochs=steps // 6)
    ):
        optimizer.zero_grad()
        torch.stack(list(loss(model.train()(batch.images), batch.targets).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    config = checkpoint_config(Detection(model, data.classes, loss, (64, 64)), preprocess, data.record, 0.5)
    config |= {"threshold": 0.25, "class_thresholds": {"red": 0.3}}
    run = tmp_path_factory.mktemp("runs") / "shapes"
    save_checkpoint(run / "checkpoints" / "best", model.state_dict(), config)
    return SimpleNamespace(run=run, shapes=shapes, config=config)
