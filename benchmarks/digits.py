"""Time to 98 % on the bundled digits: our recipe against timm's VisionTransformer of the same width and depth.

The contestants train one epoch each in turn in one process, so that a slow moment of the machine hits all.
Every one sees the same 3,500 images with the same affine augmentation, ours with mixup, too; timm's has patches of 4
(its tokens are then three times ours) and of 7 (as many tokens as ours), AdamW and cosine schedule from timm's own
factories. Ours computes as its recipe chooses, in bfloat16 on a CPU with AMX; timm's in float32, the faster for
it at this size (`python -m benchmarks small --amp fp32 bf16`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.contest import Contestant, parsed, write
from benchmarks.peers import contestant, timm_vit
from vit.data import (
    Data,
    LabelReader,
    LoaderOptions,
    Mix,
    Pipeline,
    eval_loader,
    named_augment,
    open_data,
    train_loader,
)
from vit.optim.optimizers import Ema, set_lr, warmup_cosine
from vit.tasks.classification.build import build, build_task, by_muon
from vit.tasks.classification.recipe import RECIPES
from vit.tasks.classification.settle import settle
from vit.tasks.facts import facts_of
from vit.training.batch_norm import IMAGES, with_statistics
from vit.training.engine import train_step
from vit.training.parts import build_optimizers, schedule


@dataclass(frozen=True)
class Digits:
    seed: int = 0
    goal: float = 0.98
    rivals: tuple[tuple[int, int], ...] = ((7, 80), (4, 40))
    """Patch size and epochs of timm's models: as many tokens as ours, and three times as many. They stop early once
    the goal is reached."""
    json: str | None = None


def ours(data: Data, seed: int) -> Contestant:
    facts = facts_of(data)
    recipe, _ = settle(RECIPES["digits"][1], facts)
    torch.manual_seed(seed)
    built = build(recipe, data, facts)
    model, preprocess = built.model, built.preprocess
    assert recipe.augment and recipe.batch_size and recipe.epochs and recipe.ema and data.test
    pipeline = Pipeline(named_augment(recipe.augment), preprocess)
    batches = train_loader(
        LabelReader(
            data.train, preprocess, pipeline, seed=seed, mix=Mix(len(data.classes), recipe.mixup, recipe.cutmix)
        ),
        LoaderOptions(batch_size=recipe.batch_size, epochs=recipe.epochs),
    )
    steps = len(batches)
    loop = schedule(recipe, steps, torch.device("cpu"))
    task = build_task(recipe, built, data)
    optimizers, ema = build_optimizers(recipe, model, by_muon), Ema(model, recipe.ema)
    done, test = 0, data.test

    def step(batch: Any) -> None:
        nonlocal done
        set_lr(optimizers, warmup_cosine(done, loop.steps, loop.warmup, loop.final_lr))
        train_step(task, batch, optimizers, loop)
        ema.update(model)
        done += 1

    def test_batches() -> Any:
        return eval_loader(LabelReader(test, preprocess), LoaderOptions(batch_size=256))

    some = data.train.thinned(IMAGES)

    def weights() -> dict[str, torch.Tensor]:
        return with_statistics(
            model, ema.state, eval_loader(LabelReader(some, preprocess), LoaderOptions(batch_size=64))
        )

    return Contestant("ours", model, iter(batches), step, loop.steps_per_epoch, recipe.epochs, test_batches, weights)


def main(arguments: list[str]) -> None:
    o = parsed(Digits, arguments, "digits", __doc__)
    data = open_data("digits", kind="labels")
    assert data.test is not None
    racers = [ours(data, o.seed)]
    for patch, epochs in o.rivals:
        torch.manual_seed(o.seed)
        model, name = timm_vit(28, patch, 10), f"timm, patch {patch}"
        racers.append(
            contestant(name, model, data.train, data.test, side=28, epochs=epochs, seed=o.seed, augment="glyph")
        )
    running = list(racers)
    while running:
        for racer in list(running):
            racer.epoch()
            top1 = racer.score()
            print(
                f"{racer.name:<15} epoch {len(racer.curve):>3}  {racer.seconds:6.1f} s  test top-1 {top1:.2%}",
                flush=True,
            )
            if racer.seconds_to(o.goal) is not None or len(racer.curve) == racer.epochs:
                running.remove(racer)
    mine = racers[0].seconds_to(o.goal)
    print(f"\n| contestant | seconds to {o.goal:.0%} | best test top-1 | ours / theirs |\n|---|---|---|---|")
    for racer in racers:
        reached, best = racer.seconds_to(o.goal), max(top1 for _, top1 in racer.curve)
        told = f"{reached:.0f}" if reached else f"not in {racer.seconds:.0f}"
        ratio = "" if mine is None else f"{mine / (reached or racer.seconds):.2f}" + ("" if reached else " at most")
        print(f"| {racer.name} | {told} | {best:.2%} | {ratio} |")
    write(o.json, {"goal": o.goal, "seed": o.seed, "curves": {racer.name: racer.curve for racer in racers}})
