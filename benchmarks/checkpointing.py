"""What checkpoints cost: steps of the training loop with one every so many steps and with none, in turn.

Loop, writer and files are those of a run: `engine.fit`, AdamW, a moving average; a copy of all of it, which the step
waits for, then weights, state, checksums and flushes in the background. A turn is as many steps as lie between two
checkpoints, with one in the middle, and ends when that is on the disk. By the clock of the processor the whole work of
the background is counted as if no core were free for it. What a checkpoint costs does not depend on the batch: the
smaller the step, the larger its share.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.contest import parsed, write
from benchmarks.turns import Clock, Figures, table, take_turns
from vit.model.classifier import create
from vit.optim.optimizers import Ema, make_optimizers
from vit.optim.schedule import Loop
from vit.runs.background import BackgroundWriter, snapshot
from vit.runs.retention import save_last
from vit.tasks.classification.loss import ClassificationLoss
from vit.tasks.classification.task import Classification
from vit.tasks.precision import mixed_precision
from vit.tasks.run import Parts
from vit.training.engine import fit
from vit.training.log import Silent
from vit.training.safety import Safety

CLASSES = 1000


@dataclass(frozen=True)
class Options:
    model: str = "vit_s16"
    image_size: int = 224
    batch: int = 1
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """As in a recipe."""
    every: int = 100
    """Steps between checkpoints."""
    rounds: int = 5
    clock: Clock = "cpu"
    folder: str | None = None
    """Where checkpoints are written, to be removed at the end; the system's for temporary files if left out."""
    json: str | None = None


class Repeated:
    """The same batch again and again: reading images is no part of this."""

    def __init__(self, batch: Any, steps: int) -> None:
        self.batch, self.steps = batch, steps
        self.bad: list[Any] = []

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Any:
        return iter([self.batch] * self.steps)

    def starting_at(self, step: int) -> Repeated:
        return Repeated(self.batch, self.steps - step)


class Training:
    """`turn(saves)`: `every` steps, with a checkpoint in `folder` after half of them or without."""

    def __init__(self, o: Options, folder: Path) -> None:
        self.folder, self.every = folder, o.every
        self.waited: list[float] = []
        """Seconds that a step waited for each checkpoint: the copy."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        model = create(o.model, num_classes=CLASSES, image_size=o.image_size).to(device)
        self.config = model.config.to_dict()
        self.task = Classification(model, [str(i) for i in range(CLASSES)], ClassificationLoss(CLASSES))
        self.optimizers = make_optimizers(model, name="adamw", lr=1e-4, muon_lr=0.0, weight_decay=0.05)
        self.ema = Ema(model, 0.999)
        self.loop = Loop(o.every, o.every, clip=1.0, amp=mixed_precision(o.amp, device))
        images = torch.randn(o.batch, 3, o.image_size, o.image_size, device=device)
        targets = torch.arange(o.batch, device=device) % CLASSES
        self.batches = Repeated(SimpleNamespace(images=images, targets=targets, index=torch.arange(o.batch)), o.every)

    def turn(self, saves: bool) -> None:
        safety = Safety(due=lambda step: saves and step == self.every // 2)
        with closing(BackgroundWriter()) as writer:

            def save(name: str, weights: dict[str, Tensor], numbers: dict[str, Any], state: dict[str, Any]) -> None:
                if name == "best" or state["progress"]["step"] != self.every // 2:
                    return  # the end of a run, which every run has
                begun = time.perf_counter()
                kept, copied = snapshot((weights, state))
                config = {"model": self.config, "step": state["progress"]["step"]}
                writer.put(name, lambda: save_last(self.folder, kept, config, copied, keep=1))
                self.waited.append(time.perf_counter() - begun)

            log, loop = Silent(self.every), self.loop
            fit(Parts(self.task, self.batches, self.optimizers, loop, ema=self.ema), log, save, safety=safety)


def main(arguments: list[str]) -> None:
    o = parsed(Options, arguments, "checkpointing", __doc__)
    with tempfile.TemporaryDirectory(dir=o.folder) as place:
        training = Training(o, Path(place))
        runs = {"without": lambda: training.turn(False), "with": lambda: training.turn(True)}
        turns = take_turns(runs, o.rounds, warmup=1, clock=o.clock)
        size = sum(file.stat().st_size for file in (Path(place) / "last").iterdir())
    ratio, waited = turns.ratio("with", "without"), Figures.of(training.waited)
    rounds = [a / b for a, b in zip(turns.seconds["with"], turns.seconds["without"], strict=True)]
    rows = [
        [name, turns[name].told(), f"{1e3 * turns[name].median / o.every:.1f}", ratio.told(4) if name == "with" else ""]
        for name in runs
    ]
    told = (
        f"{o.model} at {o.image_size} pixels, batch {o.batch}: a checkpoint of {size / 1e6:,.0f} MB in {o.every} steps"
    )
    print(told)
    print(table([f"checkpoint every {o.every} steps", f"s for {o.every} steps", "ms a step", "times as long"], rows))
    print(f"round by round: {', '.join(f'{r:.4f}' for r in rounds)}")
    print(f"a step waited {waited.told()} s for the copy")
    write(o.json, {"options": asdict(o), "bytes": size, "waited": training.waited, "turns": turns.to_dict()})
