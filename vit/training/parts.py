"""From a settled recipe and its data to the parts of a run of train.py, and how long a run may be."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vit.errors import UserError
from vit.processes.world import ALONE, World
from vit.tasks.classification.settle import settle

if TYPE_CHECKING:
    import torch

    from vit.data import Data, Pipeline
    from vit.data.load.label_reader import Batch
    from vit.data.load.loader import Loader
    from vit.data.load.pixel_cache import PixelCache
    from vit.images.preprocess import Preprocess
    from vit.model.classifier import Classifier
    from vit.tasks.classification.recipe import Recipe
    from vit.tasks.classification.settle import Facts, Settled
    from vit.tasks.detection.recipe import SettledDetection
    from vit.training.engine import Loop


class Parts(NamedTuple):
    """What a run trains, and on what."""

    model: Classifier
    preprocess: Preprocess
    notes: list[str]
    task: Any
    optimizers: list[Any]
    pipeline: Pipeline
    batches: Any
    loop: Loop
    once: bool
    """The encoder is frozen and its images are always the same: it need give its features but once."""
    cache: PixelCache | None
    """What images are kept in, once they are decoded and resized."""


def assemble(
    recipe: Settled,
    data: Data,
    facts: Facts,
    device: torch.device,
    start: int = 0,
    *,
    cached: bool = False,
    world: World = ALONE,
) -> Parts:
    """The parts of a run from step `start` on, for one of its processes; cached: with what the recipe keeps images
    in."""
    import torch

    from vit.tasks.classification import build
    from vit.tasks.classification.probe import trains_head_only

    torch.manual_seed(recipe.seed)
    model, preprocess, notes = build.build_model(recipe, data.classes, facts)
    model.to(device)
    arranged(model, recipe, device, world)
    counts = torch.from_numpy(data.train.counts())
    task = build.build_task(recipe, model, data.classes, counts, data.multilabel)
    optimizers = build.build_optimizers(recipe, model, head_first=recipe.head_epochs is not None)
    pipeline, told = build_pipeline(recipe, facts, preprocess)
    frozen, random = trains_head_only(model), pipeline.random or recipe.mixup > 0 or recipe.cutmix > 0
    if frozen and random:
        told.append("training images change at random, so that they go through the frozen encoder in every epoch")
    once = frozen and not random
    cache = build_cache(recipe) if cached and not once else None
    batches = feed(recipe, data, pipeline, preprocess, start=start, cache=cache, device=device, world=world)
    loop = build.build_loop(recipe, start + len(batches), device, head_epochs=recipe.head_epochs)
    return Parts(model, preprocess, notes + told, task, optimizers, pipeline, batches, loop, once, cache)


def feed(
    recipe: Settled,
    data: Data,
    pipeline: Pipeline,
    preprocess: Preprocess,
    *,
    start: int = 0,
    cache: PixelCache | None = None,
    device: torch.device | str = "cpu",
    world: World = ALONE,
) -> Loader[Batch]:
    """The training batches from step `start` on, for one of the processes of a run."""
    from vit.data import LabelReader, LoaderOptions, Mix, train_loader
    from vit.data.load.sampling import balanced_weights

    mix = Mix(len(data.classes), recipe.mixup, recipe.cutmix) if recipe.mixup or recipe.cutmix else None
    return train_loader(
        LabelReader(data.train, preprocess, pipeline, seed=recipe.seed, mix=mix),
        LoaderOptions(
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            start_step=start,
            workers=recipe.workers,
            rank=world.rank,
            world=world.size,
            device=device,
            cache=cache,
        ),
        weights=balanced_weights(data.train.targets, len(data.classes)) if recipe.balanced else None,
    )


def arranged(model: torch.nn.Module, recipe: Any, device: torch.device, world: World) -> None:
    """The model as the recipe wants it to use memory. Raises UserError for options that do not go together."""
    from vit.tasks.classification.build import mixed_precision
    from vit.training.spread import recompute, shard

    if recipe.recompute:
        recompute(model)
    if not world.sharded:
        return
    refused = {
        "--optimizer muon": recipe.optimizer == "muon",
        "--l1": bool(getattr(recipe, "l1", 0)),
        "--head-epochs": getattr(recipe, "head_epochs", None) is not None,
        "--lora-rank": getattr(recipe, "lora_rank", None) is not None,
        "--freeze": recipe.freeze,
        "--compile": recipe.compile,
        "--amp fp16": recipe.amp == "fp16",
    }
    for option, used in refused.items():
        if used:
            raise UserError(f"{option} needs whole parameters, which --parallel fsdp divides: leave out one of them.")
    shard(model, world, mixed_precision(recipe.amp, device))


def build_cache(recipe: Settled | SettledDetection) -> PixelCache | None:
    """What the recipe keeps images in; None for nothing."""
    from vit.data.load.pixel_cache import PixelCache
    from vit.predict.progress import progress

    if recipe.cache == "none":
        return None
    return PixelCache(recipe.cache, recipe.cache_gb, workers=recipe.workers, log=print, ticker=progress)


def measured(recipe: Recipe, data: Data, facts: Facts, world: World) -> int | None:
    """The batch size of --batch-size auto; None for the recipe's own. A run that is resumed keeps the one it began
    with."""
    from vit.runs.folder import read_recipe, resumed
    from vit.tasks.classification.predict import pick_device
    from vit.training.budget import largest_batch

    if recipe.resume:
        return read_recipe(resumed(recipe)).batch_size
    device = pick_device(recipe.device)
    settled = settle(replace(recipe, batch_size=min(32, len(data.train))), facts)[0]
    parts = assemble(settled, data, facts, device)
    if parts.once:
        print("--batch-size auto is for what goes through the whole model: the recipe's own size is taken", flush=True)
        return None
    return largest_batch(
        parts.task,
        next(iter(parts.batches)),
        parts.optimizers,
        parts.loop,
        ema=settled.ema,
        evaluated=256,
        images=len(data.train),
        world=world,
        tell=lambda told: print(told, flush=True),
    )


def shortened(asked: Recipe, recipe: Settled, data: Data, facts: Facts, device: torch.device) -> Settled:
    """`asked`, which is `recipe` when settled, with no more epochs than end within its minutes: by some steps on this
    machine, or, when a run is resumed, as many as it was begun with."""
    from vit.model.cost import pace
    from vit.runs.folder import read_recipe, resumed
    from vit.training.batch_norm import IMAGES, batch_norms
    from vit.training.engine import train_step
    from vit.training.minutes import fitting_epochs

    def settled(epochs: int) -> Settled:
        return settle(replace(asked, epochs=epochs), facts)[0]

    assert asked.minutes is not None
    if asked.resume:
        return settled(read_recipe(resumed(asked)).epochs)
    parts = assemble(recipe, data, facts, device)
    if parts.once:
        print("--minutes changes nothing: the images go through the encoder only once, as it is", flush=True)
        return recipe
    endless = itertools.chain.from_iterable(itertools.repeat(parts.batches))
    seconds = pace(
        lambda: train_step(parts.task, next(endless), parts.optimizers, parts.loop), device, at_least=5.0, at_most=50
    )
    val, test = (0 if images is None else len(images) for images in (data.val, data.test))
    epochs = fitting_epochs(
        asked.minutes,
        recipe.epochs,
        settled,
        step_seconds=seconds,
        steps_per_epoch=parts.loop.steps_per_epoch,
        evaluated=val + (min(IMAGES, len(data.train)) if batch_norms(parts.model) else 0),
        reported=val + test,
    )
    print(
        f"{epochs} of {recipe.epochs} epochs fit into {asked.minutes:g} minutes at {seconds * 1e3:.0f} ms a step",
        flush=True,
    )
    return settled(epochs)


def build_pipeline(recipe: Settled, facts: Facts, preprocess: Preprocess) -> tuple[Pipeline, list[str]]:
    """The augmentation of the recipe, for this model's input size, and what to tell the user."""
    from vit.data import Pipeline, named_augment

    augment, notes = named_augment(recipe.augment), []
    if recipe.flip == "no" or (recipe.flip == "auto" and facts.gray):
        if augment.flip:
            notes.append("images are not mirrored, since none has color (--flip yes mirrors them)")
        augment = replace(augment, flip=0.0)
    elif recipe.flip == "yes":
        augment = replace(augment, flip=0.5)
    return Pipeline(replace(augment, erase=recipe.erase or augment.erase), preprocess), notes
