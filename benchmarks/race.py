"""Detectors that train in turn, a few steps each, on the same scenes: ours as its recipe has it, and the rivals.

Letters: B batch, H W sides of an image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks.detectors import RIVALS, Rival
from vit.data import survey
from vit.data.augment.boxes import BoxPipeline, named_box_augment
from vit.data.load.box_reader import BoxBatch, BoxReader
from vit.data.load.loader import LoaderOptions, eval_loader, train_loader
from vit.data.open import open_data
from vit.images.preprocess import Preprocess
from vit.optim.optimizers import Ema, set_lr, warmup_cosine
from vit.tasks.detection import build
from vit.tasks.detection.metrics import DetectionMetrics
from vit.tasks.detection.recipe import RECIPES
from vit.tasks.detection.settle import settle
from vit.tasks.facts import Facts
from vit.tasks.precision import mixed_precision
from vit.training.batch_norm import IMAGES, with_statistics
from vit.training.engine import train_step
from vit.training.parts import build_optimizers, schedule

if TYPE_CHECKING:
    from vit.tasks.detection.settle import Settled

Judged = Callable[[DetectionMetrics, BoxBatch], None]


@dataclass
class Racer:
    """A detector under training. `seconds` counts training only: data, forward, backward, optimizer, average."""

    name: str
    model: nn.Module
    steps: int
    step: Callable[[int], Tensor]
    """One update, the i-th; its loss."""
    judged: Callable[[], Judged]
    """Puts the weights to judge in place; what tells the metrics what they find in a batch."""
    seconds: float = 0.0
    done: int = 0
    losses: list[float] = field(default_factory=list)

    def run(self, steps: int) -> None:
        self.model.train()
        losses = []
        begun = time.perf_counter()
        for i in range(self.done, min(self.done + steps, self.steps)):
            losses.append(self.step(i))
        self.seconds += time.perf_counter() - begun
        self.done += len(losses)
        self.losses += [float(loss) for loss in losses]


@dataclass(frozen=True)
class Track:
    """The scenes, prepared alike for everyone."""

    train: Any
    test: Any
    classes: tuple[str, ...]
    recipe: Settled
    """Ours, for so many images as the race has. The rivals have its mixed precision, too."""
    facts: Facts
    preprocess: Preprocess

    @property
    def steps(self) -> int:
        return len(self.train) // self.recipe.batch_size * self.recipe.epochs

    def batches(self, steps: int) -> Iterator[BoxBatch]:
        """The same for everyone, however many steps are wanted."""
        per_epoch = len(self.train) // self.recipe.batch_size
        pipeline = BoxPipeline(named_box_augment(self.recipe.augment), self.preprocess)
        return iter(
            train_loader(
                BoxReader(self.train, self.preprocess, pipeline, seed=self.recipe.seed),
                LoaderOptions(batch_size=self.recipe.batch_size, epochs=math.ceil(steps / per_epoch)),
            )
        )

    def plain(self) -> Any:
        """Training images as they are in evaluation."""
        return eval_loader(BoxReader(self.train.thinned(IMAGES), self.preprocess), LoaderOptions(batch_size=32))


def lay_track(images: int, test: int, seed: int, amp: str = "none") -> Track:
    """images: that ours is to see, in as few epochs as there are scenes for. test: scenes to judge on. amp: mixed
    precision as in a recipe."""
    data = open_data("scenes", seed=seed, kind="boxes")
    assert data.test is not None
    epochs = max(1, math.ceil(images / len(data.train)))
    train = data.train.select(np.arange(min(len(data.train), images // epochs)))
    facts = Facts(len(train), len(data.classes), *survey(train))
    recipe: Any = replace(RECIPES["scenes"][1], seed=seed, epochs=epochs, amp=amp)
    start = build.begin(recipe)
    settled, _ = settle(recipe, facts, start)
    preprocess = build.detection_preprocess(settled, facts, start)
    judged = data.test.select(np.arange(min(len(data.test), test)))
    return Track(train, judged, tuple(data.classes), settled, facts, preprocess)


def ours(track: Track) -> Racer:
    """`python train.py scenes`, step by step."""
    recipe, device = track.recipe, torch.device("cpu")
    torch.manual_seed(recipe.seed)
    built = build.build(recipe, track, track.facts, build.begin(recipe))
    task, model = build.build_task(recipe, built, track), built.model
    optimizers = build_optimizers(recipe, model, build.by_muon)
    loop, ema = schedule(recipe, track.steps, device), Ema(model, recipe.ema)
    batches = track.batches(track.steps)

    def step(i: int) -> Tensor:
        set_lr(optimizers, loop.rate(i))
        batch = next(batches)
        torch.manual_seed(recipe.seed * 1_000_003 + i)
        loss = train_step(task, batch, optimizers, loop)
        ema.update(model)
        return loss

    def judged() -> Judged:
        model.load_state_dict(with_statistics(model, ema.state, track.plain()))
        model.eval()
        return lambda metrics, batch: metrics.update(model(batch.images).last, batch.targets)

    return Racer("ours", model, track.steps, step, judged)


def rival(name: str, track: Track, steps: int, rate: float) -> Racer:
    """With AdamW at `rate`, warm-up over as large a part of the run as ours and half a cosine down to 0, and, for the
    two DETRs as in their own training, gradients clipped to a norm of .1 and a moving average of the weights (over as
    large a part of the run as ours, with the statistics of batch norms measured for it as ours are)."""
    torch.manual_seed(track.recipe.seed)
    made: Rival = RIVALS[name](len(track.classes), max(track.preprocess.size))
    model: Any = made.model
    decays = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decays, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([{**group, "base_lr": rate} for group in groups], lr=rate, fused=True)
    warmup = round(steps / 15)
    amp = mixed_precision(track.recipe.amp, torch.device("cpu"))
    average = AveragedModel(model, multi_avg_fn=_averaging(steps)) if made.detr else None
    batches = track.batches(steps)

    def step(i: int) -> Tensor:
        set_lr([optimizer], warmup_cosine(i, steps, warmup))
        batch = next(batches)
        torch.manual_seed(track.recipe.seed * 1_000_003 + i)
        with torch.autocast("cpu", amp, enabled=amp is not None):
            loss = made.loss(batch.images, batch.targets)
        if loss.isfinite():  # transformers' loss of LW-DETR is not where a score saturates
            loss.backward()
            if made.detr:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update_parameters(model)
        return loss.detach()

    def judged() -> Judged:
        if average is not None:
            model.load_state_dict(with_statistics(model, average.module.state_dict(), track.plain()))
        model.eval()
        return lambda metrics, batch: made.add(metrics, batch.images, batch.targets)

    return Racer(name, model, steps, step, judged)


def race(racers: Sequence[Racer], turn: int, say: Callable[[str], object] = print) -> None:
    """All train to their end, `turn` steps each in turn: what else the machine does hits them alike."""
    told = 0.0
    while running := [racer for racer in racers if racer.done < racer.steps]:
        for racer in running:
            racer.run(turn)
        share = min(racer.done / racer.steps for racer in racers)
        if share >= told + 0.1 or share == 1:
            told = share
            say(
                "; ".join(f"{r.name} {r.done}/{r.steps}, {r.seconds:.0f} s, loss {_last(r.losses):.2f}" for r in racers)
            )


@torch.no_grad()
def judge(racer: Racer, track: Track) -> dict[str, Any]:
    """Scores on the test scenes, and what it took to come there. The racer is done with."""
    add, metrics = racer.judged(), DetectionMetrics(track.classes, track.preprocess.size)
    for batch in eval_loader(BoxReader(track.test, track.preprocess), LoaderOptions(batch_size=32)):
        add(metrics, batch)
    scores = metrics.scalars()
    return {
        "parameters": sum(p.numel() for p in racer.model.parameters()),
        "steps": racer.done,
        "images": racer.done * track.recipe.batch_size,
        "seconds": racer.seconds,
        "loss": _last(racer.losses),
        "skipped": sum(not math.isfinite(loss) for loss in racer.losses),
        "map": scores["map"],
        "map50": scores["map50"],
    }


def _averaging(steps: int) -> Callable[[Any, Any, Any], None]:
    """The decay that our recipe has for a run of so many steps, warmed up as in `vit.optim.optimizers.Ema`."""
    decay = 1 - 1 / min(2000.0, max(10.0, 0.08 * steps))

    @torch.no_grad()
    def update(averages: Any, now: Any, count: Any) -> None:
        weight = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(list(averages), list(now), weight)  # pyright: ignore[reportPrivateImportUsage]

    return update


def _last(losses: Sequence[float]) -> float:
    finite = [loss for loss in losses[-50:] if math.isfinite(loss)]
    return sum(finite) / max(1, len(finite))
