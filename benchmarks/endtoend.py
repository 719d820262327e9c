"""Images per second of whole training epochs on a folder of JPEGs of 500x375 pixels, made in the run: ViT-Ti/16 at 224,
ours from the folder to AdamW's update, against timm's data set, loader, transform, model and optimizer.

Both cut a random part of 8 to 100 % out of the image, mirror it half of the time, take batches of --batch-size,
cross-entropy and AdamW. An epoch is trained in turns of --turn steps; what is told is the median over turns, so that a
part of an epoch (--steps) will do. Waiting is the share of the time in which the model has no batch.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional as F

from benchmarks.contest import parsed, write
from benchmarks.photos import write_photos
from benchmarks.turns import Clock, Figures, Turns, table
from vit.data import LabelReader, LoaderOptions, Pipeline, open_data, train_loader
from vit.data.augment.images import Augment
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import create
from vit.optim.optimizers import make_optimizers
from vit.optim.schedule import Loop
from vit.tasks.classification.loss import ClassificationLoss
from vit.tasks.classification.task import Classification
from vit.tasks.precision import DTYPES
from vit.training.engine import train_step

SIDE = 224
CROP = (0.08, 1.0)
FOREVER = 1 << 20
RATE, DECAY = 1e-3, 0.05


@dataclass(frozen=True)
class Options:
    images: int = 5000
    batch_size: int = 64
    steps: int = 0
    """Of each contestant; 0 for a whole epoch."""
    turn: int = 2
    workers: int = 0
    settings: tuple[Literal["fp32", "bf16", "compiled", "compiled-bf16"], ...] = ("fp32", "bf16", "compiled-bf16")
    """Each is run with ours; the first two with timm's as well (its --amp --amp-dtype bfloat16)."""
    clock: Clock = "cpu"
    """With workers only wall time counts everything."""
    folder: Path | None = None
    """Where the images are, or are to be made; a temporary folder if left out."""
    json: str | None = None

    def __post_init__(self) -> None:
        if self.workers and self.clock == "cpu":
            raise UserError("--workers compute in processes that --clock cpu does not count: add --clock wall.")
        if not self.settings:
            raise UserError("--settings needs one at least: fp32.")


@dataclass
class Runner:
    """Batches and a step; seconds that the one and the other took, turn by turn."""

    batches: Iterator[Any]
    step: Callable[[Any], object]
    now: Callable[[], float]
    waited: list[float]
    worked: list[float]

    def run(self, steps: int) -> None:
        waited = worked = 0.0
        for _ in range(steps):
            begun = self.now()
            batch = next(self.batches)
            ready = self.now()
            self.step(batch)
            waited, worked = waited + ready - begun, worked + self.now() - ready
        self.waited.append(waited / steps)
        self.worked.append(worked / steps)

    @property
    def seconds(self) -> list[float]:
        return [a + b for a, b in zip(self.waited, self.worked, strict=True)]

    @property
    def waiting(self) -> Figures:
        return Figures.of([a / (a + b) for a, b in zip(self.waited, self.worked, strict=True)])


def ours(folder: Path, setting: str, o: Options) -> tuple[Iterator[Any], Callable[[Any], object]]:
    torch.manual_seed(0)
    data = open_data(str(folder), seed=None, kind="labels")
    preprocess = Preprocess((SIDE, SIDE), crop=0.875)
    pipeline = Pipeline(Augment(crop=CROP, flip=0.5), preprocess)
    batches = train_loader(
        LabelReader(data.train, preprocess, pipeline),
        LoaderOptions(batch_size=o.batch_size, epochs=FOREVER, workers=o.workers),
    )
    model = create("vit_ti16", num_classes=len(data.classes))
    if setting.startswith("compiled"):
        model.compile()
    task = Classification(model, data.classes, ClassificationLoss(len(data.classes)))
    optimizers = make_optimizers(model, name="adamw", lr=RATE, muon_lr=RATE, weight_decay=DECAY)
    loop = Loop(FOREVER, FOREVER, amp=DTYPES["bf16"] if setting.endswith("bf16") else None)
    model.train()
    return iter(batches), lambda batch: train_step(task, batch, optimizers, loop)


def timm(folder: Path, setting: str, o: Options) -> tuple[Iterator[Any], Callable[[Any], object]]:
    import timm
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import create_loader
    from timm.optim._optim_factory import create_optimizer_v2

    torch.manual_seed(0)
    data: Any = create_dataset("", root=str(folder), split="train", is_training=True)
    loader = create_loader(
        data, (3, SIDE, SIDE), o.batch_size, is_training=True, use_prefetcher=False, no_aug=False, scale=CROP,
        hflip=0.5, color_jitter=0.0, interpolation="bilinear", num_workers=o.workers,
        persistent_workers=o.workers > 0,
    )  # fmt: skip
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=DECAY)

    def step(batch: Any) -> None:
        images, targets = batch
        with torch.autocast("cpu", torch.bfloat16, enabled=setting == "bf16"):
            loss = F.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    return batches(), step


def main(arguments: list[str]) -> None:
    o = parsed(Options, arguments, "endtoend", __doc__)
    with tempfile.TemporaryDirectory() as temporary:
        folder = o.folder or Path(temporary)
        if not any(folder.rglob("*.jpg")):
            print(f"making {o.images:,} JPEGs", file=sys.stderr, flush=True)
            write_photos(folder, o.images, (375, 500))
        runners = run(folder, o)
    turns = Turns({name: runner.seconds for name, runner in runners.items()})
    print(f"\n{lines(turns, runners, o.batch_size)}")
    mine = turns.fastest([name for name in runners if name.startswith("ours")])
    print(f"\n{mine} against timm: {turns.ratio('timm', mine).told()} times as fast")
    ratios = {name: turns.ratio("timm", name)._asdict() for name in runners}
    waiting = {name: runner.waiting._asdict() for name, runner in runners.items()}
    options = {**asdict(o), "folder": None}
    write(o.json, {"options": options, "turns": turns.to_dict(), "timm / it": ratios, "waiting": waiting})


def run(folder: Path, o: Options) -> dict[str, Runner]:
    now = time.process_time if o.clock == "cpu" else time.perf_counter
    asked = [("ours", setting) for setting in o.settings]
    asked += [("timm", setting) for setting in o.settings if not setting.startswith("compiled")]
    runners = {}
    for library, setting in asked:
        made = (ours if library == "ours" else timm)(folder, setting, o)
        runners[library + ("" if setting == "fp32" else f", {setting.replace('-', ', ')}")] = Runner(*made, now, [], [])
    steps = o.steps or -(-o.images // o.batch_size)
    for runner in runners.values():  # workers start, code is compiled
        runner.run(1)
        runner.waited.clear()
        runner.worked.clear()
    for i in range(max(1, steps // o.turn)):
        for runner in list(runners.values())[:: -1 if i % 2 else 1]:
            runner.run(o.turn)
    return runners


def lines(turns: Turns, runners: dict[str, Runner], batch_size: int) -> str:
    rows = [
        [
            name,
            f"{batch_size / turns[name].median:.1f}",
            turns.ratio("timm", name).told(),
            f"{runner.waiting.median:.1%}",
        ]
        for name, runner in runners.items()
    ]
    return table(["contestant", "images/s", "times timm's", "waiting for data"], rows)
