"""Train an image classifier or an object detector: recipe -> data -> model -> fit -> report.

python train.py                                        real handwritten digits, minutes on a CPU
python train.py folder --data photos                   from scratch on class folders of your own
python train.py finetune --data photos --weights RUN   from a checkpoint, with a new head
python train.py probe --data photos --weights RUN      the head only, on features computed once
python train.py scenes                                 detection of digits in composed scenes
python train.py detect --data DIR [--weights SRC]      detection on annotations of your own: COCO, YOLO, VOC, CSV
python train.py RECIPE --help                          every option
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from vit.errors import UserError, nearest, shown
from vit.processes.signals import listening
from vit.tasks.classification.recipe import RECIPES, Recipe
from vit.tasks.classification.settle import Facts, settle
from vit.tasks.detection.recipe import DETECTION_RECIPES, DetectionRecipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vit.data import Data, Features, ImageSet
    from vit.data.load.label_reader import Batch
    from vit.data.load.loader import Loader
    from vit.tasks.classification.settle import Settled


def train(recipe: Recipe) -> dict[str, Any]:
    """Run a recipe; the test report, as `eval.py --json` gives it. Raises UserError for a user's mistake."""
    from vit.data import FeatureBatches, LabelReader, LoaderOptions, eval_loader, open_data, survey
    from vit.data.check.quick import advice
    from vit.processes.world import join, leave

    # The data first: a misspelt path is told before a model is built.
    if recipe.data is None:
        raise UserError(
            "say what to train on: --data DIR (class folders), a manifest, shards, hf:OWNER/NAME or digits."
        )
    world = join(recipe.device, sharded=recipe.parallel == "fsdp")
    with world.main_first():
        data = open_data(recipe.data, seed=recipe.seed, format=recipe.format, kind="labels")
    facts = Facts(len(data.train), len(data.classes), *survey(data.train))
    if recipe.batch_size == "auto":
        from vit.training.parts import measured

        recipe = replace(recipe, batch_size=measured(recipe, data, facts, world))
    asked = recipe
    recipe, chosen = settle(asked, facts)
    tell(*data.notes, *advice(data), *chosen)

    from vit.model.cost import count_parameters
    from vit.model.lora import merged
    from vit.runs.checkpoint import load_model
    from vit.runs.folder import bad_files_listed, open_run, write_recipe
    from vit.tasks.classification.build import checkpoint_config
    from vit.tasks.classification.predict import pick_device
    from vit.tasks.classification.probe import HeadOnly, pooled
    from vit.training.batch_norm import IMAGES, batch_norms
    from vit.training.parts import assemble, shortened
    from vit.training.run import run_training

    device = pick_device(recipe.device)
    world.refuses(dry_run=recipe.dry_run, minutes=asked.minutes)
    if asked.minutes is not None:
        recipe = shortened(asked, recipe, data, facts, device)
    folder, resume = open_run(recipe, world)
    start = resume["progress"]["step"] if resume else 0
    model, preprocess, notes, task, optimizers, pipeline, batches, loop, once, cache = assemble(
        recipe, data, facts, device, start, cached=not recipe.dry_run, world=world
    )
    tell(*notes)
    if recipe.dry_run:
        images = sum(len(split) for split in data.splits().values())
        steps = math.ceil(images / recipe.batch_size) if once else loop.steps
        return dry_run(task, batches, optimizers, loop, steps)

    def in_order(images: ImageSet, *, strict: bool = False, rank: int = 0, size: int = 1) -> Loader[Batch]:
        kept = cache if images is data.val else None  # the others are seen once
        return eval_loader(
            LabelReader(images, preprocess),
            LoaderOptions(
                batch_size=at_once(device),
                workers=recipe.workers,
                rank=rank,
                world=size,
                device=device,
                cache=kept,
                strict=strict,
            ),
        )

    def validation() -> Iterable[Any]:
        assert data.val is not None
        if once:
            return features["val"].batches(at_once(device), device, rank=world.rank, world=world.size)
        return in_order(data.val, rank=world.rank, size=world.size)

    def whole(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        # A head that is trained on features comes alone.
        return merged({**model.state_dict(), **weights} if once else weights, recipe.lora_alpha)

    some = data.train.thinned(IMAGES)

    config = checkpoint_config(task, preprocess, data.record, pipeline.augment.flip)

    world.on_main(lambda: write_recipe(folder, replace(recipe, resume=False)))
    features: dict[str, Features] = {}
    if once:
        if resume is not None:  # the encoder of this run, whatever --weights holds by now
            model.load_state_dict(load_model(folder)[0].state_dict())
        encode = pooled(model, loop.amp)
        loader = in_order(data.train, strict=True)
        with bad_files_listed(folder, loader):
            features["train"] = features_of(loader, encode)
        if data.val is not None:
            features["val"] = features_of(in_order(data.val), encode)
        batches, task.model = FeatureBatches(batches, features["train"]), HeadOnly(model)
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
        f"{recipe.model or recipe.weights}: {count_parameters(model)}",
        world=world,
        whole=lambda weights: merged(
            weights if world.sharded else {**model.state_dict(), **weights}, recipe.lora_alpha
        ),
        plain=(lambda: in_order(some)) if batch_norms(model) else None,
        listed=not once,
    )
    leave()
    if not world.main:
        return {}
    # Features in lower precision are good enough to train on, but the figures are to be those of eval.py.
    return report(folder, data, recipe, features if loop.amp is None else {})


def features_of(loader: Loader[Batch], encode: Callable[[Tensor], Tensor]) -> Features:
    from vit.data import Features
    from vit.predict.progress import clear, progress

    n = len(loader.images)
    tell(f"{n:,} images go through the frozen encoder, once")
    features = Features.of(loader, encode, progress(n))
    clear()
    return features


def at_once(device: torch.device) -> int:
    """Images in a batch where no gradient is needed. On a CPU more take memory, and are no faster."""
    return 64 if device.type == "cpu" else 256


def report(folder: Path, data: Data, recipe: Settled, features: Mapping[str, Features]) -> dict[str, Any]:
    """The best checkpoint on the test split (on validation where there is none), with pictures, into the run folder.

    The temperature is fitted on validation and kept in the checkpoint, so that predictions come calibrated. `features`
    of a split, where its encoder has given them already, stand for its images.
    """
    from vit.data import LabelReader, LoaderOptions, eval_loader
    from vit.runs.checkpoint import find_checkpoint, load_model, set_config
    from vit.tasks.classification.outputs import collect, summarise, temperature_of
    from vit.tasks.classification.predict import Predictor
    from vit.tasks.classification.report import print_report, write_curves, write_report

    best = find_checkpoint(folder)
    predictor = Predictor(*load_model(best), device=recipe.device)
    device = predictor.device
    splits = data.splits()
    name = next(split for split in ("test", "val", "train") if split in splits)

    def outputs_of(split: str):
        if split in features:
            head: Any = predictor.model.head
            return collect(head, features[split].batches(at_once(device), device)), features[split].bad
        loader = eval_loader(
            LabelReader(splits[split], predictor.preprocess),
            LoaderOptions(batch_size=at_once(device), workers=recipe.workers, device=device),
        )
        return collect(predictor.logits, loader), loader.bad

    temperature = temperature_of(outputs_of("val")[0]) if "val" in splits else None
    set_config(best, temperature=temperature)
    outputs, unreadable = outputs_of(name)
    result: dict[str, Any] = {"task": "classification", "split": name, "data": data.source}
    result |= summarise(outputs, data.classes, multilabel=data.multilabel, temperature=temperature)
    result["unreadable"] = [item._asdict() for item in unreadable]
    images = splits[name]
    write_report(folder, result, outputs, data.classes, image=images.image, name=images.name)
    write_curves(folder)
    print_report(result)
    place = shlex.quote(str(folder))
    tell(f"everything is in {place}: python eval.py {place}, vitral predict {place} IMAGE")
    return result


def dry_run(task: Any, batches: Any, optimizers: list[Any], loop: Any, steps: int) -> dict[str, Any]:
    """One batch forward and backward, a few times for the clock; nothing is written. steps: that will take as long."""
    from vit.model.cost import measure
    from vit.training.engine import train_step

    batch = next(iter(batches))
    cost = measure(task.model, tuple(batch.images.shape[1:]), lambda: train_step(task, batch, optimizers, loop))
    tell(*cost.lines(steps), "dry run: nothing was written")
    return asdict(cost)


def tell(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def main(arguments: Sequence[str]) -> None:
    recipe = parse(arguments)
    with listening():
        if isinstance(recipe, Recipe):
            train(recipe)
        else:
            from vit.training import run_detector as train_detector

            train_detector.train(recipe)


def parse(arguments: Sequence[str]) -> Recipe | DetectionRecipe:
    """`RECIPE [--options]`; the recipe is digits if left out. A misspelt option exits with 2 and names the nearest."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["digits", *arguments]
    recipes: dict[str, tuple[str, Any]] = {**RECIPES, **DETECTION_RECIPES}
    if arguments[0] not in (*recipes, "-h", "--help"):
        meant = nearest(arguments[0], recipes)
        if Path(arguments[0]).exists():
            meant = f" Data goes behind --data: folder --data {shlex.quote(arguments[0])}."
        raise UserError(f"there is no recipe {arguments[0]!r}.{meant} Recipes: {shown(list(recipes))}.")
    if arguments[1:] and not arguments[1].startswith("-"):
        raise UserError(f"{arguments[1]!r} has no option before it. Is it the data? --data {shlex.quote(arguments[1])}")
    return tyro.extras.overridable_config_cli(
        {
            name: (f"{told} What is None is chosen from the data." if name in arguments else told, recipe)
            for name, (told, recipe) in recipes.items()
        },
        prog="train.py",
        description="Train an image classifier or an object detector. Without a recipe it is digits; "
        "`train.py RECIPE --help` lists every option.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
