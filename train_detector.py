"""Train an object detector: recipe -> data -> model -> fit -> report.

`train.py scenes` and `train.py detect` come here.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_parts import arranged
from vit.detection_recipes import DetectionRecipe, settle_detection
from vit.distributed import ALONE, World
from vit.errors import UserError
from vit.settle import Facts

if TYPE_CHECKING:
    import numpy as np

    from datasets.box_transforms import BoxPipeline
    from datasets.boxset import DetectionData
    from vit.detection_recipes import SettledDetection
    from vit.detector.start import Start
    from vit.image import Preprocess


def train(recipe: DetectionRecipe) -> dict[str, Any]:
    """Run a recipe; the test report, as `eval.py --json` gives it. Raises UserError for a user's mistake."""
    from datasets import survey
    from datasets.box_loader import box_eval_loader, box_train_loader
    from datasets.multiscale import MultiScale
    from datasets.open_detection import open_detection
    from datasets.quick_check import advice
    from vit.distributed import join, leave

    # The data first: a misspelt path is told before a model is built.
    if recipe.data is None:
        raise UserError("say what to train on: --data DIR (COCO, YOLO, Pascal VOC, CSV, ...), or scenes.")
    world = join(recipe.device, sharded=recipe.parallel == "fsdp")
    with world.main_first():
        data = open_detection(recipe.data, seed=recipe.seed, format=recipe.format)
    facts = Facts(len(data.train), len(data.classes), *survey(data.train))

    import torch

    from vit import build, detection_build
    from vit.cost import count_parameters
    from vit.predictor import pick_device
    from vit.previews import Previews, spread
    from vit.runs import open_run, write_recipe
    from vit.statistics import IMAGES, batch_norms
    from vit.training import run_training

    begun = detection_build.begin_detector(recipe)
    known = begun.preprocess if begun.knows_boxes else None
    if recipe.batch_size == "auto":
        recipe = replace(recipe, batch_size=measured(recipe, data, facts, begun, known, world))
    recipe, chosen = settle_detection(recipe, facts, begun.config.divisor, known)
    torch.manual_seed(recipe.seed)
    model, notes = detection_build.build_detector(recipe, begun, data.classes)
    tell(*data.notes, *advice(data), *chosen, *notes, *crowded(data, model.config.queries))
    world.refuses(dry_run=recipe.dry_run)
    folder, resume = open_run(recipe, world)
    device = pick_device(recipe.device)
    model.to(device)
    arranged(model, recipe, device, world)
    preprocess = detection_build.detection_preprocess(recipe, facts, begun)
    counts = torch.from_numpy(data.train.counts())
    task = detection_build.build_detection_task(recipe, model, data.classes, counts, preprocess.size)
    optimizers = build.build_optimizers(recipe, model, by_muon=detection_build.hidden)
    pipeline = build_pipeline(recipe, preprocess)
    start = resume["progress"]["step"] if resume else 0
    side = preprocess.size
    scales = MultiScale(side, begun.config.divisor, recipe.multi_scale, recipe.seed) if recipe.multi_scale else None
    if scales is not None:
        tell("a step's images are of " + ", ".join(f"{w}x{h}" for h, w in scales.sizes) + " pixels")
    batches = box_train_loader(
        data.train,
        pipeline,
        preprocess,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        seed=recipe.seed,
        start_step=start,
        workers=recipe.workers,
        rank=world.rank,
        world=world.size,
        repeats=repeated(data) if recipe.balanced else None,
        scales=scales,
        device=device,
    )
    loop = build.build_loop(recipe, start + len(batches), device)
    if recipe.dry_run:
        return dry_run(task, batches, optimizers, loop)

    previews = None
    if recipe.previews and data.val:
        previews = Previews(folder / "previews", data.val, spread(data.val.objects()), data.classes)

    def validation() -> Iterable[Any]:
        loaded = box_eval_loader(
            data.val,
            preprocess,
            batch_size=32,
            workers=recipe.workers,
            rank=world.rank,
            world=world.size,
            device=device,
        )
        return loaded if previews is None else previews.seen(loaded)

    def watch(metrics: Any, epoch: int) -> None:
        assert previews is not None
        seen = world.gather(previews.order)
        if world.main:
            previews.order = seen[0] if world.size == 1 else sorted(itertools.chain(*seen))
            previews.draw(metrics, epoch)

    some = data.train.thinned(IMAGES)

    def plain() -> Iterable[Any]:
        return box_eval_loader(some, preprocess, batch_size=32, workers=recipe.workers, device=device)

    config = detection_build.detection_config(task, preprocess, data.record, pipeline.augment.flip)

    world.on_main(lambda: write_recipe(folder, replace(recipe, resume=False)))
    if recipe.compile:
        model.compile()
    run_training(
        recipe,
        folder,
        resume,
        task,
        batches,
        validation if data.val else None,
        optimizers,
        loop,
        config,
        f"{begun.name}: {count_parameters(model)}",
        world=world,
        watch=watch if previews is not None else None,
        plain=plain if batch_norms(model) else None,
    )
    leave()
    if not world.main:
        return {}
    return report(folder, data, recipe)


def measured(
    recipe: DetectionRecipe, data: DetectionData, facts: Facts, begun: Start, known: Preprocess | None, world: World
) -> int:
    """The batch size of --batch-size auto. A run that is resumed keeps the one it began with."""
    import torch

    from datasets.box_loader import box_train_loader
    from vit import build, detection_build
    from vit.fitting import largest_batch
    from vit.predictor import pick_device
    from vit.runs import read_recipe, resumed

    if recipe.resume:
        return read_recipe(resumed(recipe), DetectionRecipe).batch_size
    device = pick_device(recipe.device)
    settled, _ = settle_detection(replace(recipe, batch_size=4), facts, begun.config.divisor, known)
    model, _ = detection_build.build_detector(settled, begun, data.classes)
    arranged(model.to(device), settled, device, ALONE)
    preprocess = detection_build.detection_preprocess(settled, facts, begun)
    if settled.multi_scale:  # the largest of its sizes
        side = round(settled.image_size * (1 + settled.multi_scale) / begun.config.divisor) * begun.config.divisor
        preprocess = replace(preprocess, size=(side, side))
    counts = torch.from_numpy(data.train.counts())
    batches = box_train_loader(
        data.train, build_pipeline(settled, preprocess), preprocess, batch_size=4, epochs=1, device=device
    )
    found = largest_batch(
        detection_build.build_detection_task(settled, model, data.classes, counts, preprocess.size),
        next(iter(batches)),
        build.build_optimizers(settled, model, by_muon=detection_build.hidden),
        build.build_loop(settled, settled.epochs, device),
        ema=settled.ema,
        evaluated=32,
        images=len(data.train),
        world=world,
        tell=tell,
    )
    return found or 16


def build_pipeline(recipe: SettledDetection, preprocess: Preprocess) -> BoxPipeline:
    """The augmentation of the recipe, for this model's input size."""
    from datasets.box_transforms import BoxPipeline, named_box_augment

    augment = named_box_augment(recipe.augment)
    if recipe.flip == "no" or (recipe.flip == "auto" and recipe.data == "scenes"):
        augment = replace(augment, flip=0.0)
    elif recipe.flip == "yes":
        augment = replace(augment, flip=0.5)
    return BoxPipeline(augment, preprocess)


def repeated(data: DetectionData) -> np.ndarray:
    """How often each training image comes in an epoch so that rare classes are seen."""
    from datasets.sampling import repeat_factors

    n = len(data.train)
    images, labels = data.train.labelled()
    repeats = repeat_factors(images, labels, n, len(data.classes))
    length = math.ceil(repeats.sum())
    tell(f"images with rare classes come up to {repeats.max():.1f} times: an epoch is {length:,} images, not {n:,}")
    return repeats


def crowded(data: DetectionData, queries: int) -> list[str]:
    """A warning when images have more objects than the detector has queries."""
    objects = data.train.objects()
    most = objects.max(initial=0)
    if most <= queries:
        return []
    share = (objects > queries).mean()
    return [
        f"Warning: {share:.1%} of the training images have more than {queries} objects, up to {most}; the detector "
        f"finds {queries} at most. Add --queries {most}."
    ]


def report(folder: Path, data: DetectionData, recipe: SettledDetection) -> dict[str, Any]:
    """The best checkpoint on the test split (on validation where there is none), with pictures, into the run folder.

    The score thresholds are chosen on validation and kept in the checkpoint, so that prediction uses them.
    """
    from eval_detector import collect, evaluate_detector
    from vit.checkpoint import find_checkpoint, set_config
    from vit.detection_report import thresholds_to_keep
    from vit.detector.start import load_detector
    from vit.predictor import pick_device
    from vit.report import write_curves
    from vit.scan import Scan

    best, splits = find_checkpoint(folder), data.splits()
    if "val" in splits:
        model, config = load_detector(best)
        done = collect(model.to(pick_device(recipe.device)), config, splits["val"], Scan(), workers=recipe.workers)
        set_config(best, **thresholds_to_keep(done.metrics.compute()))
    split = next(name for name in ("test", "val", "train") if name in splits)
    result = evaluate_detector(best, data, split, device=recipe.device, workers=recipe.workers, out=folder)
    write_curves(folder)
    place = shlex.quote(str(folder))
    tell(f"everything is in {place}: python eval.py {place}, vitral predict {place} IMAGE --out DIR")
    return result


def dry_run(task: Any, batches: Any, optimizers: list[Any], loop: Any) -> dict[str, Any]:
    """One batch forward and backward, a few times for the clock; nothing is written."""
    from vit.cost import measure
    from vit.engine import train_step

    batch = next(iter(batches))
    cost = measure(task.model, tuple(batch.images.shape[1:]), lambda: train_step(task, batch, optimizers, loop))
    tell(*cost.lines(loop.steps), "dry run: nothing was written")
    return asdict(cost)


def tell(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)
