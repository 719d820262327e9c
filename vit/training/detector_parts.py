"""From a settled recipe of detection and its data to the parts of a run, as `train_parts` does for classification."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from vit.processes.world import ALONE, World
from vit.tasks.detection.recipe import USUAL_BATCH, DetectionRecipe, settle_detection
from vit.training.parts import arranged, build_cache

if TYPE_CHECKING:
    import numpy as np
    import torch

    from vit.data.augment.boxes import BoxPipeline
    from vit.data.load.box_reader import BoxBatch
    from vit.data.load.loader import Loader
    from vit.data.load.pixel_cache import PixelCache
    from vit.data.sets.data import DetectionData
    from vit.detector import Detector
    from vit.images.preprocess import Preprocess
    from vit.pretrained.load_detector import Start
    from vit.tasks.classification.settle import Facts
    from vit.tasks.detection.recipe import SettledDetection
    from vit.tasks.detection.task import Detection
    from vit.training.schedule import Loop

EVALUATED = 32
"""Images in a batch where no gradient is needed."""
tell = partial(print, flush=True)


class Parts(NamedTuple):
    """What a run trains, and on what."""

    model: Detector
    preprocess: Preprocess
    notes: list[str]
    task: Detection
    optimizers: list[torch.optim.Optimizer]
    pipeline: BoxPipeline
    batches: Loader[BoxBatch]
    loop: Loop
    cache: PixelCache | None
    """What images are kept in, once they are decoded and resized."""


def assemble(
    recipe: SettledDetection,
    data: DetectionData,
    facts: Facts,
    begun: Start,
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
    from vit.tasks.detection import build as detection_build

    torch.manual_seed(recipe.seed)
    model, notes = detection_build.build_detector(recipe, begun, data.classes)
    model.to(device)
    arranged(model, recipe, device, world)
    preprocess = detection_build.detection_preprocess(recipe, facts, begun)
    counts = torch.from_numpy(data.train.counts())
    task = detection_build.build_detection_task(recipe, model, data.classes, counts, preprocess.size)
    optimizers = build.build_optimizers(recipe, model, by_muon=detection_build.hidden)
    pipeline = build_pipeline(recipe, preprocess)
    cache = build_cache(recipe) if cached else None
    divisor = begun.config.divisor
    batches = feed(
        recipe, data, pipeline, preprocess, divisor, start=start, cache=cache, device=device, world=world
    )  # fmt: skip
    loop = build.build_loop(recipe, start + len(batches), device)
    return Parts(model, preprocess, notes, task, optimizers, pipeline, batches, loop, cache)


def measured(
    recipe: DetectionRecipe, data: DetectionData, facts: Facts, begun: Start, known: Preprocess | None, world: World
) -> int:
    """The batch size of --batch-size auto. A run that is resumed keeps the one it began with."""
    from vit.predict.predictor import pick_device
    from vit.runs.folder import read_recipe, resumed
    from vit.training.budget import largest_batch

    if recipe.resume:
        return read_recipe(resumed(recipe), DetectionRecipe).batch_size
    divisor = begun.config.divisor
    settled, _ = settle_detection(replace(recipe, batch_size=min(4, len(data.train))), facts, divisor, known)
    if settled.multi_scale:  # the largest of its sizes
        side = int(settled.image_size * (1 + settled.multi_scale) / divisor) * divisor
        settled = replace(settled, image_size=side, multi_scale=0.0)
    parts = assemble(settled, data, facts, begun, pick_device(recipe.device))
    found = largest_batch(
        parts.task,
        next(iter(parts.batches)),
        parts.optimizers,
        parts.loop,
        ema=settled.ema,
        evaluated=EVALUATED,
        images=len(data.train),
        world=world,
        tell=tell,
    )
    return found or USUAL_BATCH


def feed(
    recipe: SettledDetection,
    data: DetectionData,
    pipeline: BoxPipeline,
    preprocess: Preprocess,
    divisor: int,
    *,
    start: int = 0,
    cache: PixelCache | None = None,
    device: torch.device | str = "cpu",
    world: World = ALONE,
) -> Loader[BoxBatch]:
    """The training batches from step `start` on, for one of the processes of a run. divisor: of the model's input, in
    pixels."""
    from vit.data.augment.multiscale import MultiScale
    from vit.data.load.box_reader import BoxReader
    from vit.data.load.loader import LoaderOptions, train_loader

    size = preprocess.size
    scales = MultiScale(size, divisor, recipe.multi_scale, recipe.seed) if recipe.multi_scale else None
    if scales is not None:
        tell("a step's images are of " + ", ".join(f"{w}x{h}" for h, w in scales.sizes) + " pixels")
    return train_loader(
        BoxReader(data.train, preprocess, pipeline, seed=recipe.seed, scales=scales, unmixed=recipe.close_mosaic),
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
        repeats=repeated(data) if recipe.balanced else None,
        log=tell,
    )


def build_pipeline(recipe: SettledDetection, preprocess: Preprocess) -> BoxPipeline:
    """The augmentation of the recipe, for this model's input size."""
    from vit.data.augment.boxes import BoxPipeline, named_box_augment

    augment = named_box_augment(recipe.augment)
    if recipe.flip == "no" or (recipe.flip == "auto" and recipe.data == "scenes"):
        augment = replace(augment, flip=0.0)
    elif recipe.flip == "yes":
        augment = replace(augment, flip=0.5)
    return BoxPipeline(augment, preprocess)


def repeated(data: DetectionData) -> np.ndarray:
    """How often each training image comes in an epoch so that rare classes are seen."""
    from vit.data.load.sampling import repeat_factors

    n = len(data.train)
    images, labels = data.train.labeled()
    repeats = repeat_factors(images, labels, n, len(data.classes))
    length = math.ceil(repeats.sum())
    tell(f"images with rare classes come up to {repeats.max():.1f} times: an epoch is {length:,} images, not {n:,}")
    return repeats
