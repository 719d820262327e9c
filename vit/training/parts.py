"""Assemble the parts of a run from a settled recipe, whatever its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from vit.errors import UserError
from vit.optim.optimizers import Ema, make_optimizers
from vit.optim.schedule import Loop
from vit.processes.world import World
from vit.tasks.precision import mixed_precision
from vit.tasks.run import Built, Parts, Run
from vit.tasks.table import Row
from vit.training.batch_norm import IMAGES, batch_norms
from vit.training.spread import recompute, shard


@dataclass
class Assembly:
    """Everything that a run needs: the model, its data feed, and the parts of the loop."""

    built: Built
    feed: Any
    """The task's `Feed`."""
    parts: Parts
    notes: list[str]
    """Notes for the user."""


def assemble(row: Row, run: Run) -> Assembly:
    """Assemble the parts of one process of a run, starting at `run.step`."""
    recipe, data, build = run.recipe, run.data, row.part("build")
    torch.manual_seed(recipe.seed)
    built: Built = build.build(recipe, data, run.facts, run.start)
    model = built.model.to(run.device)
    arrange(model, recipe, run.device, run.world)
    task = build.build_task(recipe, built, data)
    optimizers = build_optimizers(recipe, model, build.by_muon)
    feed = row.part("feed").Feed(run, built)
    batches = feed.train(run.step)
    parts = Parts(task, batches, optimizers, schedule(recipe, run.step + len(batches), run.device))
    if data.val is not None and len(data.val):
        parts.validation = lambda: feed.evaluation(data.val, shared=True)
    if batch_norms(model):
        plain = data.train.thinned(IMAGES)
        parts.plain = lambda: feed.evaluation(plain)
    return Assembly(built, feed, parts, built.notes + feed.notes)


def build_optimizers(recipe: Any, model: nn.Module, by_muon: Callable[[str, torch.Tensor], bool]) -> list[Optimizer]:
    """by_muon: whether Muon, if the recipe uses it, trains the parameter of this name."""
    return make_optimizers(
        model,
        name=recipe.optimizer,
        lr=recipe.lr,
        muon_lr=recipe.muon_lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        head_first=recipe.head_first,
        by_muon=by_muon,
    )


def average(parts: Parts, recipe: Any) -> None:
    """Add an exponential moving average of the trained weights, if the recipe uses one."""
    parts.ema = Ema(parts.task.model, recipe.ema) if recipe.ema else None


def schedule(recipe: Any, steps: int, device: torch.device) -> Loop:
    """The schedule of a run of this many steps."""
    per_epoch = steps // recipe.epochs
    return Loop(
        steps=steps,
        steps_per_epoch=per_epoch,
        head_steps=recipe.head_only_epochs * per_epoch,
        warmup=round(recipe.warmup * per_epoch),
        final_lr=recipe.final_lr,
        accumulate=recipe.accumulate,
        clip=recipe.clip,
        amp=mixed_precision(recipe.amp, device),
        seed=recipe.seed,
        eval_every=recipe.eval_every,
        patience=recipe.patience,
    )


def arrange(model: nn.Module, recipe: Any, device: torch.device, world: World) -> None:
    """Apply recomputation and sharding as the recipe says. Raises UserError for incompatible options."""
    if recipe.recompute:
        recompute(model)
    if not world.sharded:
        return
    for option, used in recipe.needs_whole_parameters.items():
        if used:
            raise UserError(f"{option} needs whole parameters, which --parallel fsdp shards. Leave out one of them.")
    shard(model, world, mixed_precision(recipe.amp, device))
