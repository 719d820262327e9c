"""Token merging on the bundled digits: test top-1 and time of a trained checkpoint against tokens merged in each block.

python train.py digits --model vit_nano4_conv_mean --image-size 32 --epochs 10 --amp none --out runs/fine
python -m benchmarks merging --checkpoint runs/fine
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.contest import parsed, top1, write
from benchmarks.turns import CLOCK, Clock, table, take_turns
from vit.data import LabelReader, LoaderOptions, eval_loader, open_data
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.merging import merging
from vit.runs.checkpoint import load_model


@dataclass(frozen=True)
class Options:
    checkpoint: str
    """A run or checkpoint folder of a model of the bundled digits."""
    counts: tuple[int, ...] = (0, 2, 4, 8, 12)
    batch: int = 64
    rounds: int = 5
    clock: Clock = CLOCK
    json: str | None = None


def main(arguments: list[str]) -> None:
    o = parsed(Options, arguments, "merging", __doc__)
    model, config = load_model(o.checkpoint)
    preprocess = Preprocess.from_dict(config["preprocess"])
    test = open_data("digits", kind="labels").test
    assert test is not None
    if tuple(config["classes"]) != tuple(test.classes):
        raise UserError(f"{o.checkpoint} does not know the bundled digits, which it is judged on.")
    accuracy: dict[int, float] = {}
    for count in o.counts:
        accuracy[count] = top1(
            merging(model, count), eval_loader(LabelReader(test, preprocess), LoaderOptions(o.batch))
        )
    images = next(iter(eval_loader(LabelReader(test, preprocess), LoaderOptions(o.batch)))).images

    @torch.no_grad()
    def run(count: int) -> Any:
        return merging(model, count)(images)

    turns = take_turns({str(count): lambda count=count: run(count) for count in o.counts}, o.rounds, clock=o.clock)
    with torch.no_grad():
        left = {n: merging(model, n).forward_features(images[:1]).patches.shape[1] for n in (0, *o.counts)}
    rows = [
        [
            str(count),
            f"{left[0]} to {left[count]}",
            f"{accuracy[count]:.2%}",
            f"{1e3 * turns[str(count)].median / o.batch:.2f}",
            turns.ratio(str(o.counts[0]), str(count)).told(),
        ]
        for count in o.counts
    ]
    print(table(["merged in a block", "patches", "test top-1", "ms an image", "times as fast"], rows))
    write(o.json, {"options": asdict(o), "patches": left, "top1": accuracy, "turns": turns.to_dict()})
