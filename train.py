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
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from vit.command import run
from vit.detection_recipes import DETECTION_RECIPES, DetectionRecipe
from vit.errors import UserError, nearest, shown
from vit.recipes import RECIPES, Facts, Recipe, settle

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from datasets import Data, Features, ImageSet, Pipeline
    from datasets.loader import Loader
    from datasets.pixel_cache import PixelCache
    from vit.image import Preprocess
    from vit.recipes import Settled


def train(recipe: Recipe) -> dict[str, Any]:
    """Run a recipe; the test report, as `eval.py --json` gives it. Raises UserError for a user's mistake."""
    from datasets import FeatureBatches, Mix, eval_loader, open_data, survey, train_loader
    from datasets.quick_check import advice

    # The data first: a misspelt path is told before a model is built.
    if recipe.data is None:
        raise UserError(
            "say what to train on: --data DIR (class folders), a manifest, shards, hf:OWNER/NAME or digits."
        )
    data = open_data(recipe.data, seed=recipe.seed, format=recipe.format)
    facts = Facts(len(data.train), len(data.classes), *survey(data.train))
    recipe, chosen = settle(recipe, facts)
    tell(*data.notes, *advice(data), *chosen)

    import torch

    from vit import build
    from vit.checkpoint import load_model, save_checkpoint
    from vit.cost import count_parameters
    from vit.engine import fit
    from vit.lora import merged
    from vit.optim import Ema
    from vit.predict import pick_device
    from vit.probe import HeadOnly, pooled, trains_head_only
    from vit.runlog import RunLog
    from vit.runs import bad_files_listed, open_run, write_recipe
    from vit.statistics import IMAGES, batch_norms

    folder, resume = open_run(recipe)
    device = pick_device(recipe.device)
    torch.manual_seed(recipe.seed)
    model, preprocess, notes = build.build_model(recipe, data.classes, facts)
    model.to(device)
    tell(*notes)
    counts = torch.from_numpy(data.train.counts())
    task = build.build_task(recipe, model, data.classes, counts, data.multilabel)
    optimizers = build.build_optimizers(recipe, model, head_first=recipe.head_epochs is not None)
    pipeline = build_pipeline(recipe, facts, preprocess)
    # An encoder that never changes gives the same of an image that never changes.
    frozen, random = trains_head_only(model), pipeline.random or recipe.mixup > 0 or recipe.cutmix > 0
    once = frozen and not random
    if frozen and random:
        tell("training images change at random, so that they go through the frozen encoder in every epoch")
    cache = None if once or recipe.dry_run else build_cache(recipe)
    start = resume["progress"]["step"] if resume else 0
    batches = train_loader(
        data.train,
        pipeline,
        preprocess,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        seed=recipe.seed,
        start_step=start,
        workers=recipe.workers,
        balanced=recipe.balanced,
        mix=Mix(len(data.classes), recipe.mixup, recipe.cutmix) if recipe.mixup or recipe.cutmix else None,
        cache=cache,
        device=device,
    )
    loop = build.build_loop(recipe, start + len(batches), device, head_epochs=recipe.head_epochs)
    if recipe.dry_run:
        images = sum(len(split) for split in data.splits().values())
        return dry_run(task, batches, optimizers, loop, math.ceil(images / recipe.batch_size) if once else loop.steps)

    def in_order(images: ImageSet, *, strict: bool = False) -> Loader:
        return eval_loader(
            images,
            preprocess,
            batch_size=at_once(device),
            workers=recipe.workers,
            cache=cache if images is data.val else None,  # the others are seen once
            device=device,
            strict=strict,
        )

    def validation() -> Iterable[Any]:
        assert data.val is not None
        return features["val"].batches(at_once(device), device) if once else in_order(data.val)

    some = data.train.thinned(IMAGES)

    config = build.checkpoint_config(task, preprocess, data.record, pipeline.augment.flip)

    def save(name: str, weights: dict[str, Any], numbers: dict[str, Any], state: dict[str, Any]) -> None:
        # A head that is trained on features comes alone.
        whole = merged({**model.state_dict(), **weights}, recipe.lora_alpha)
        save_checkpoint(folder / "checkpoints" / name, whole, {**config, "metrics": numbers}, state or None)

    write_recipe(folder, replace(recipe, resume=False))
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
    ema = Ema(task.model, recipe.ema) if recipe.ema else None
    listed = nullcontext() if once else bad_files_listed(folder, batches)
    with RunLog(folder, steps=loop.steps, start=start) as log, listed:
        log.say(f"{recipe.model or recipe.weights}: {count_parameters(model)} -> {folder}")
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
            plain=(lambda: in_order(some)) if batch_norms(model) else None,
        )
    # Features in lower precision are good enough to train on, but the figures are to be those of eval.py.
    return report(folder, data, recipe, features if loop.amp is None else {})


def build_cache(recipe: Settled) -> PixelCache | None:
    """What images are kept in, once they are decoded and resized."""
    from datasets.pixel_cache import PixelCache
    from vit.progress import progress

    if recipe.cache == "none":
        return None
    return PixelCache(recipe.cache, recipe.cache_gb, workers=recipe.workers, tell=tell, ticker=progress)


def features_of(loader: Loader, encode: Callable[[Tensor], Tensor]) -> Features:
    from datasets import Features
    from vit.progress import clear, progress

    n = len(loader.targets)
    tell(f"{n:,} images go through the frozen encoder, once")
    features = Features.of(loader, encode, progress(n))
    clear()
    return features


def at_once(device: torch.device) -> int:
    """Images in a batch where no gradient is needed. On a CPU more take memory, and are no faster."""
    return 64 if device.type == "cpu" else 256


def build_pipeline(recipe: Settled, facts: Facts, preprocess: Preprocess) -> Pipeline:
    """The augmentation of the recipe, for this model's input size."""
    from datasets import Pipeline, named_augment

    augment = named_augment(recipe.augment)
    if recipe.flip == "no" or (recipe.flip == "auto" and facts.gray):
        if augment.flip:
            tell("images are not mirrored, since none has color (--flip yes mirrors them)")
        augment = replace(augment, flip=0.0)
    elif recipe.flip == "yes":
        augment = replace(augment, flip=0.5)
    return Pipeline(replace(augment, erase=recipe.erase or augment.erase), preprocess)


def report(folder: Path, data: Data, recipe: Settled, features: Mapping[str, Features]) -> dict[str, Any]:
    """The best checkpoint on the test split (on validation where there is none), with pictures, into the run folder.

    The temperature is fitted on validation and kept in the checkpoint, so that predictions come calibrated. `features`
    of a split, where its encoder has given them already, stand for its images.
    """
    from datasets import eval_loader
    from vit.checkpoint import find_checkpoint, load_model, set_config
    from vit.evaluate import collect, summarise, temperature_of
    from vit.predict import Predictor
    from vit.report import print_report, write_curves, write_report

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
    tell(f"everything is in {folder}: python eval.py {folder}, vitral predict {folder} IMAGE")
    return result


def dry_run(task: Any, batches: Any, optimizers: list[Any], loop: Any, steps: int) -> dict[str, Any]:
    """One batch forward and backward, a few times for the clock; nothing is written. steps: that will take as long."""
    from vit.cost import measure
    from vit.engine import train_step

    batch = next(iter(batches))
    cost = measure(task.model, tuple(batch.images.shape[1:]), lambda: train_step(task, batch, optimizers, loop))
    tell(*cost.lines(steps), "dry run: nothing was written")
    return asdict(cost)


def tell(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def main(arguments: Sequence[str]) -> None:
    recipe = parse(arguments)
    if isinstance(recipe, Recipe):
        train(recipe)
    else:
        import train_detector

        train_detector.train(recipe)


def parse(arguments: Sequence[str]) -> Recipe | DetectionRecipe:
    """`RECIPE [--options]`; the recipe is digits if left out. A misspelt option exits with 2 and names the nearest."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["digits", *arguments]
    recipes: dict[str, tuple[str, Any]] = {**RECIPES, **DETECTION_RECIPES}
    if arguments[0] not in (*recipes, "-h", "--help"):
        raise UserError(
            f"there is no recipe {arguments[0]!r}.{nearest(arguments[0], recipes)} Recipes: {shown(list(recipes))}."
        )
    return tyro.extras.overridable_config_cli(
        recipes,
        prog="train.py",
        description=__doc__,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
