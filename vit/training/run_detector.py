"""Train an object detector: recipe -> data -> model -> fit -> report.

`train.py scenes` and `train.py detect` come here.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit.errors import UserError
from vit.tasks.classification.settle import Facts
from vit.tasks.detection.recipe import DetectionRecipe, settle_detection
from vit.training.detector_parts import EVALUATED, assemble, measured

if TYPE_CHECKING:
    from vit.data.sets.data import DetectionData
    from vit.tasks.detection.recipe import SettledDetection


def train(recipe: DetectionRecipe) -> dict[str, Any]:
    """Run a recipe; the test report, as `eval.py --json` gives it. Raises UserError for a user's mistake."""
    from vit.data import survey
    from vit.data.check.quick import advice
    from vit.data.load.box_reader import BoxReader
    from vit.data.load.loader import LoaderOptions, eval_loader
    from vit.data.open import open_data
    from vit.processes.world import join, leave

    # The data first: a misspelt path is told before a model is built.
    if recipe.data is None:
        raise UserError("say what to train on: --data DIR (COCO, YOLO, Pascal VOC, CSV, ...), or scenes.")
    world = join(recipe.device, sharded=recipe.parallel == "fsdp")
    with world.main_first():
        data = open_data(recipe.data, seed=recipe.seed, format=recipe.format, kind="boxes")
    facts = Facts(len(data.train), len(data.classes), *survey(data.train))

    from vit.model.cost import count_parameters
    from vit.predict.predictor import pick_device
    from vit.runs.folder import open_run, write_recipe
    from vit.tasks.detection import build as detection_build
    from vit.tasks.detection.previews import Previews, spread
    from vit.training.batch_norm import IMAGES, batch_norms
    from vit.training.run import run_training

    begun = detection_build.begin_detector(recipe)
    known = begun.preprocess if begun.knows_boxes else None
    if recipe.batch_size == "auto":
        recipe = replace(recipe, batch_size=measured(recipe, data, facts, begun, known, world))
    recipe, chosen = settle_detection(recipe, facts, begun.config.divisor, known)
    device = pick_device(recipe.device)
    world.refuses(dry_run=recipe.dry_run)
    folder, resume = open_run(recipe, world)
    start = resume["progress"]["step"] if resume else 0
    parts = assemble(recipe, data, facts, begun, device, start, cached=not recipe.dry_run, world=world)
    model, preprocess, notes, task, optimizers, pipeline, batches, loop, cache = parts
    tell(*data.notes, *advice(data), *chosen, *notes, *crowded(data, model.config.queries))
    if recipe.dry_run:
        return dry_run(task, batches, optimizers, loop)

    previews = None
    if recipe.previews and data.val:
        previews = Previews(folder / "previews", data.val, spread(data.val.objects()), data.classes)

    def validation() -> Iterable[Any]:
        loaded = eval_loader(
            BoxReader(data.val, preprocess),
            LoaderOptions(
                batch_size=EVALUATED,
                workers=recipe.workers,
                rank=world.rank,
                world=world.size,
                device=device,
                cache=cache,
            ),
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
        return eval_loader(
            BoxReader(some, preprocess), LoaderOptions(batch_size=EVALUATED, workers=recipe.workers, device=device)
        )

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
    from vit.predict.predictor import pick_device
    from vit.pretrained.load_detector import load_detector
    from vit.runs.checkpoint import find_checkpoint, set_config
    from vit.tasks.classification.report import write_curves
    from vit.tasks.detection.evaluate import collect, evaluate_detector
    from vit.tasks.detection.report import thresholds_to_keep
    from vit.tasks.detection.scan.options import Scan

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
    from vit.model.cost import measure
    from vit.training.engine import train_step

    batch = next(iter(batches))
    cost = measure(task.model, tuple(batch.images.shape[1:]), lambda: train_step(task, batch, optimizers, loop))
    tell(*cost.lines(loop.steps), "dry run: nothing was written")
    return asdict(cost)


def tell(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)
