"""Train an image classifier or an object detector: recipe -> data -> model -> fit -> report.

vitral train                                        real handwritten digits, minutes on a CPU
vitral train folder --data photos                   from scratch on class folders of your own
vitral train finetune --data photos --weights RUN   from a checkpoint, with a new head
vitral train probe --data photos --weights RUN      only the head, on features that are computed once
vitral train scenes                                 detection of digits in composed scenes
vitral train detect --data DIR [--weights SRC]      detection on your own boxes: COCO, YOLO, VOC, CSV
vitral train RECIPE --help                          every option
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit.commands.cli import aliases
from vit.commands.cli.options import parse as parse_options
from vit.errors import UserError, nearest, shown
from vit.processes.signals import listening
from vit.tasks.classification.recipe import RECIPES, Recipe
from vit.tasks.classification.settle import Facts, settle
from vit.tasks.detection.recipe import DETECTION_RECIPES, DetectionRecipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vit.data import Data, Features, ImageSet
    from vit.data.load.loader import Loader
    from vit.tasks.classification.settle import Settled


def train(recipe: Recipe) -> dict[str, Any]:
    """Run a recipe; the test report, as `vitral eval --json` gives it. Raises UserError for a user's mistake."""
    from vit.data import FeatureBatches, eval_loader, open_data, survey
    from vit.data.check.quick import advice
    from vit.processes.world import join, leave

    # The data first: a misspelt path is told before a model is built.
    if recipe.data is None:
        raise UserError(
            "say what to train on: --data DIR (class folders), a manifest, shards, hf:OWNER/NAME or digits."
        )
    world = join(recipe.device, sharded=recipe.parallel == "fsdp")
    with world.main_first():
        data = open_data(recipe.data, seed=recipe.seed, format=recipe.format)
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

    def in_order(images: ImageSet, *, strict: bool = False, rank: int = 0, size: int = 1) -> Loader:
        return eval_loader(
            images,
            preprocess,
            batch_size=at_once(device),
            workers=recipe.workers,
            cache=cache if images is data.val else None,  # the others are seen once
            device=device,
            strict=strict,
            rank=rank,
            world=size,
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
    # Features in lower precision are good enough to train on, but the figures are to be those of `vitral eval`.
    return report(folder, data, recipe, features if loop.amp is None else {})


def features_of(loader: Loader, encode: Callable[[Tensor], Tensor]) -> Features:
    from vit.data import Features
    from vit.predict.progress import clear, progress

    n = len(loader.targets)
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
    from vit.data import eval_loader
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
            splits[split], predictor.preprocess, batch_size=at_once(device), workers=recipe.workers, device=device
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
    tell(f"everything is in {place}: vitral eval {place}, vitral predict {place} IMAGE")
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


def recipes() -> dict[str, tuple[str, Any]]:
    """name -> (what it is for, the recipe with its defaults), of every task."""
    return {**RECIPES, **DETECTION_RECIPES}


def parse(arguments: Sequence[str], prog: str | None = None) -> Recipe | DetectionRecipe:
    """`RECIPE [--options]`; the recipe is digits if left out. --help prints the recipes, or the options of one.

    prog: what messages call the command; `vitral train RECIPE` if None.
    """
    known = recipes()
    if arguments and arguments[0] in ("-h", "--help"):
        print(overview(known))
        raise SystemExit(0)
    if not arguments or arguments[0].startswith("-"):
        arguments = ["digits", *arguments]
    name, *options = arguments
    if aliases.ASSIGNMENT.fullmatch(name):  # data=photos: `parse_options` names the right form
        name, options = ("detect" if name.endswith((".yaml", ".yml")) else "folder"), list(arguments)
    if name not in known:
        meant = nearest(name, known)
        if Path(name).exists():
            meant = f" Is it the data? vitral train folder --data {shlex.quote(name)}"
        raise UserError(f"There is no recipe {name!r}.{meant}\nRecipes: {shown(list(known))}.")
    about, recipe = known[name]
    return parse_options(
        type(recipe), options, prog or f"vitral train {name}", base=recipe, hidden=("recipe",), about=about
    )


def overview(known: Mapping[str, tuple[str, Any]]) -> str:
    width = max(map(len, known)) + 2
    rows = [f"  {name:<{width}}{about}" for name, (about, _) in known.items()]
    return "\n".join(
        [
            "Usage: vitral train [RECIPE] [options]",
            "",
            "Train an image classifier or an object detector. A recipe is a set of defaults:",
            "",
            *rows,
            "",
            "Without a recipe it is digits. vitral train RECIPE --help lists a recipe's options.",
        ]
    )
