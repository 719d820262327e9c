"""Images with a number each, from a CSV file with the columns path,value: every fifth to validation and to test."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vit.data.augment.images import Augment, Pipeline
from vit.data.load.label_reader import LabelReader
from vit.data.load.loader import LoaderOptions, eval_loader, train_loader
from vit.data.sets.data import Splits
from vit.data.sets.imageset import FileSet
from vit.data.sets.names import NameTable
from vit.errors import UserError
from vit.tasks.run import Seen

EXPECTED = "--data FILE.csv with the columns path,value"


@dataclass(kw_only=True)
class Numbers(Splits):
    """Images whose `targets` are float32 [n]."""


def open_data(recipe):
    return opened(recipe.data)


def reopen(record, source=None, *, format=None):
    return opened(source or record["source"])


def opened(source):
    try:
        rows = list(csv.DictReader(Path(source).read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}.") from None
    paths, values = [row["path"] for row in rows], np.array([float(row["value"]) for row in rows], np.float32)
    part = np.arange(len(rows)) % 5
    whole = FileSet(["value"], values, str(Path(source).parent), NameTable.of(paths))
    sets = {name: whole.select(np.flatnonzero(np.isin(part, k))) for name, k in SPLITS.items()}
    splits = {name: {"images": len(images), "names": images.fingerprint()} for name, images in sets.items()}
    record = {"source": str(Path(source).resolve()), "seed": 0, "rule": "by the row", "splits": splits}
    return Numbers(**sets, classes=("value",), source=str(source), record=record)


SPLITS = {"train": (0, 1, 2), "val": (3,), "test": (4,)}


class Feed:
    once = False

    def __init__(self, run, built):
        self.run, self.preprocess = run, built.preprocess
        flip = 0.0 if run.recipe.flip == "no" else 0.5
        self.pipeline, self.flip, self.notes = Pipeline(Augment(flip=flip), built.preprocess), flip, []

    def train(self, step):
        run, recipe = self.run, self.run.recipe
        reader = LabelReader(run.data.train, self.preprocess, self.pipeline, seed=recipe.seed)
        world = run.world
        return train_loader(
            reader,
            LoaderOptions(
                recipe.batch_size, recipe.epochs, step, recipe.workers, world.rank, world.size, device=run.device
            ),
        )

    def evaluation(self, images, *, shared=False, strict=False):
        rank, size = (self.run.world.rank, self.run.world.size) if shared else (0, 1)
        options = LoaderOptions(evaluation_batch(self.run.device), rank=rank, world=size, device=self.run.device)
        return eval_loader(LabelReader(images, self.preprocess), options)

    def seen(self, batch):
        for pixels, value in zip(self.preprocess.denormalize(batch.images), batch.targets.tolist(), strict=True):
            yield Seen(pixels, f"{value:.3f}", [])


def evaluation_batch(device):
    return 32
