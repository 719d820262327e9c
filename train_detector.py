"""Train an object detector: recipe -> data -> model -> fit -> report.

`train.py scenes` and `train.py detect` come here.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit.detection_recipes import DetectionRecipe, settle_detection
from vit.errors import UserError
from vit.settle import Facts

if TYPE_CHECKING:
    import numpy as np
    import torch

    from datasets.box_loader import BoxLoader
    from datasets.box_transforms import BoxPipeline
    from datasets.boxset import DetectionData
    from datasets.pixel_cache import PixelCache
    from vit.detection_recipes import SettledDetection
    from vit.image import Preprocess


def train(recipe: DetectionRecipe) -> dict[str, Any]:
    """Run a recipe; the test report, as `eval.py --json` gives it. Raises UserError for a user's mistake."""
    from datasets import survey
    from datasets.box_loader import box_eval_loader
    from datasets.open_detection import open_detection
    from datasets.quick_check import advice

    # The data first: a misspelt path is told before a model is built.
    if recipe.data is None:
        raise UserError("say what to train on: --data DIR (COCO, YOLO, Pascal VOC, CSV, ...), or scenes.")
    data = open_detection(recipe.data, seed=recipe.seed, format=recipe.format)
    facts = Facts(len(data.train), len(data.classes), *survey(data.train))

    import torch

    from train_parts import build_cache
    from vit import build, detection_build
    from vit.checkpoint import save_checkpoint
    from vit.cost import count_parameters
    from vit.engine import fit
    from vit.optim import Ema
    from vit.predictor import pick_device
    from vit.previews import Previews, spread
    from vit.runlog import RunLog
    from vit.runs import bad_files_listed, open_run, write_recipe
    from vit.statistics import IMAGES, batch_norms

    begun = detection_build.begin_detector(recipe)
    known = begun.preprocess if begun.knows_boxes else None
    recipe, chosen = settle_detection(recipe, facts, begun.config.divisor, known)
    torch.manual_seed(recipe.seed)
    model, notes = detection_build.build_detector(recipe, begun, data.classes)
    tell(*data.notes, *advice(data), *chosen, *notes, *crowded(data, model.config.queries))
    folder, resume = open_run(recipe)
    device = pick_device(recipe.device)
    model.to(device)
    preprocess = detection_build.detection_preprocess(recipe, facts, begun)
    counts = torch.from_numpy(data.train.counts())
    task = detection_build.build_detection_task(recipe, model, data.classes, counts, preprocess.size)
    optimizers = build.build_optimizers(recipe, model, by_muon=detection_build.hidden)
    pipeline = build_pipeline(recipe, preprocess)
    start = resume["progress"]["step"] if resume else 0
    cache = build_cache(recipe) if not recipe.dry_run else None
    divisor = begun.config.divisor
    batches = feed(recipe, data, pipeline, preprocess, divisor, start=start, cache=cache, device=device)
    loop = build.build_loop(recipe, start + len(batches), device)
    if recipe.dry_run:
        return dry_run(task, batches, optimizers, loop)

    previews = None
    if recipe.previews and data.val:
        previews = Previews(folder / "previews", data.val, spread(data.val.objects()), data.classes)

    def validation() -> Iterable[Any]:
        loaded = box_eval_loader(
            data.val, preprocess, batch_size=32, workers=recipe.workers, cache=cache, device=device
        )  # fmt: skip
        return loaded if previews is None else previews.seen(loaded)

    some = data.train.thinned(IMAGES)

    def plain() -> Iterable[Any]:
        return box_eval_loader(some, preprocess, batch_size=32, workers=recipe.workers, device=device)

    config = detection_build.detection_config(task, preprocess, data.record, pipeline.augment.flip)

    def save(name: str, weights: dict[str, Any], numbers: dict[str, Any], state: dict[str, Any]) -> None:
        save_checkpoint(folder / "checkpoints" / name, weights, {**config, "metrics": numbers}, state or None)

    write_recipe(folder, replace(recipe, resume=False))
    if recipe.compile:
        model.compile()
    ema = Ema(model, recipe.ema) if recipe.ema else None
    with RunLog(folder, steps=loop.steps, start=start) as log, bad_files_listed(folder, batches):
        log.say(f"{begun.name}: {count_parameters(model)} -> {folder}")
        fit(
            task,
            batches,
            validation if data.val else None,
            optimizers,
            loop,
            log,
            save,
            ema=ema,
            resume=resume,
            watch=previews.draw if previews is not None else None,
            plain=plain if batch_norms(model) else None,
        )
    return report(folder, data, recipe)


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
) -> BoxLoader:
    """The training batches from step `start` on. divisor: of the model's input, in pixels."""
    from datasets.box_loader import box_train_loader
    from datasets.multiscale import MultiScale

    size = preprocess.size
    scales = MultiScale(size, divisor, recipe.multi_scale, recipe.seed) if recipe.multi_scale else None
    if scales is not None:
        tell("a step's images are of " + ", ".join(f"{w}x{h}" for h, w in scales.sizes) + " pixels")
    return box_train_loader(
        data.train,
        pipeline,
        preprocess,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        seed=recipe.seed,
        start_step=start,
        workers=recipe.workers,
        repeats=repeated(data) if recipe.balanced else None,
        scales=scales,
        unmixed=recipe.close_mosaic,
        cache=cache,
        tell=tell,
        device=device,
    )


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
