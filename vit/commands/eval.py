"""Evaluate a checkpoint of a classifier or a detector: checkpoint + data -> metrics -> report.

python eval.py runs/digits                                 the test split of the data it was trained on
python eval.py runs/digits --data photos --json out.json   class folders of your own; every image counts as test
python eval.py runs/digits --tta --knn 20                  averaged views, and nearest neighbors, beside it
python eval.py timm:NAME --data photos --knn 20            public weights: nearest neighbors on their features
python eval.py runs/detect --tile 640 --out report         a detector, in tiles; its pictures into report/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vit.errors import UserError, shown
from vit.tasks.detection.scan.options import Scan

if TYPE_CHECKING:
    from vit.data import Data, ImageSet
    from vit.data.load.label_reader import Batch
    from vit.data.load.loader import Loader
    from vit.tasks.classification.outputs import Outputs
    from vit.tasks.classification.predict import Predictor


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a checkpoint and print the report. A mistake in the command gives exit code 2."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint folder, or a run folder of train.py (its best checkpoint); with --knn also public weights (a file,
    timm:NAME, hf:OWNER/REPO)."""
    data: str | None = None
    """What train.py takes as --data: class folders, a manifest, shards, hf:OWNER/NAME, digits, ...; for a detector
    annotations of boxes, or scenes. By default what the checkpoint was trained on."""
    format: Literal["folder", "manifest", "coco", "yolo", "voc", "csv", "jsonl", "parquet", "shards"] | None = None
    """What --data is, where the folder could be several; recognised from what lies in it if left out."""
    split: Literal["train", "val", "test"] | None = None
    """test if left out, or val where the data has no test split."""
    json: Path | None = None
    """Write all figures to this file, as JSON."""
    out: Path | None = None
    """A folder for report.json and pictures: confusion.png and mistakes.png, of a detector also precision_recall.png
    and predictions.png."""
    tta: bool = False
    """Several scales, and mirror images where training had them: a classifier's averaged probabilities beside the plain
    figures, a detector's fused boxes in place of them."""
    tta_flip: Literal["auto", "yes", "no"] = "auto"
    """Mirror images in --tta; auto: if the training recipe flipped."""
    knn: int | None = None
    """Also classify by this many nearest neighbors among the train split's features. Public weights, which have no
    head for these classes, are evaluated by that alone."""
    model: str | None = None
    """The name of the model, where CHECKPOINT is a file of public weights (`vitral models` lists them)."""
    image_size: int | None = None
    """Public weights: side in pixels of the square that images are resized to; by default the model's."""
    tile: int | None = None
    """A detector also looks at tiles of this side, in pixels of the image."""
    overlap: float = Scan.overlap
    """Share of a tile's side that neighbors have in common."""
    nms: float | None = None
    """A detector's boxes without those that a better one of the class overlaps by more than this IoU."""
    batch_size: int = 64
    workers: int = 0
    """Processes that decode images."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


def main(args: Evaluate) -> None:
    check(args)
    from vit.data import LabelReader, LoaderOptions, eval_loader, reopen
    from vit.predict.progress import progress
    from vit.pretrained.load import is_public
    from vit.runs.checkpoint import find_checkpoint, load_config, load_model
    from vit.tasks.classification.outputs import collect, summarise, temperature_of
    from vit.tasks.classification.predict import Predictor
    from vit.tasks.classification.tta import with_tta

    if is_public(args.checkpoint):
        return neighbors_alone(args)
    if args.model is not None or args.image_size is not None:
        raise UserError("--model and --image-size go with public weights; a checkpoint knows its own.")
    # The data first: a misspelt path is told before any model is built.
    config = load_config(find_checkpoint(args.checkpoint))
    if config["task"] == "detection":
        return detection(args, config)
    data = reopen(config.get("data"), args.data, format=args.format, kind="labels")
    for note in data.notes:
        print(note, file=sys.stderr)
    split = args.split or ("val" if "val" in data.splits() and "test" not in data.splits() else "test")
    check_data(data, split, args.knn is not None, config)
    if args.tile is not None or args.nms is not None:
        raise UserError("--tile and --nms are for detectors; this checkpoint is a classifier.")
    predictor = Predictor(*load_model(args.checkpoint), device=args.device)
    classes, multilabel = predictor.classes, predictor.multilabel

    splits = data.splits()
    options = LoaderOptions(batch_size=args.batch_size, workers=args.workers, device=predictor.device)

    def loader(images: ImageSet) -> Loader[Batch]:
        return eval_loader(LabelReader(images, predictor.preprocess), options)

    images = splits[split]
    batches = loader(images)
    outputs = collect(predictor.logits, batches, progress(len(images)))
    if outputs is None:
        raise UserError(f"none of the {len(images)} images of {split} can be read. The first: {batches.bad[0].reason}")

    # Fitted on images that the figures below are not computed from; without such, as the checkpoint has it.
    temperature = config.get("temperature")
    if "val" in splits and split != "val":
        temperature = temperature_of(collect(predictor.logits, loader(splits["val"]))) or temperature

    result: dict[str, Any] = {"task": config["task"], "split": split, "data": data.source}
    result |= summarise(outputs, classes, multilabel=multilabel, temperature=temperature)
    result["unreadable"] = [bad._asdict() for bad in batches.bad]
    if args.tta:
        averaged = with_tta(predictor.logits, flip=flips(args, config), multilabel=multilabel)
        result["tta"] = beside(collect(averaged, loader(images)), classes, multilabel)
    if args.knn is not None:
        _, result["knn"] = neighbors(args.knn, predictor, classes, loader(images), loader(splits["train"]))
    finish(args, result, outputs, images)


def neighbors_alone(args: Evaluate) -> None:
    """Public weights: nearest neighbors on their features are the classifier."""
    from vit.data import LabelReader, LoaderOptions, eval_loader, open_data
    from vit.tasks.classification.features import open_encoder
    from vit.tasks.classification.outputs import summarise

    if args.knn is None or args.data is None or args.tta or args.tile is not None or args.nms is not None:
        raise UserError(
            f"{args.checkpoint} has no head for the classes of your data. Its features can be judged by nearest "
            "neighbors: with --data and --knn 20, without --tta, --tile and --nms. python train.py probe trains a head."
        )
    data = open_data(args.data, format=args.format, kind="labels")
    split = args.split or ("test" if data.test else "val")
    require_splits(data, split, knn=True)
    encoder, notes = open_encoder(args.checkpoint, model=args.model, image_size=args.image_size, device=args.device)
    for note in (*data.notes, *notes):
        print(note, file=sys.stderr)
    queries, train = (
        eval_loader(
            LabelReader(data.splits()[name], encoder.preprocess),
            LoaderOptions(batch_size=args.batch_size, workers=args.workers, device=encoder.device),
        )
        for name in (split, "train")
    )
    outputs, knn = neighbors(args.knn, encoder, data.classes, queries, train)
    result: dict[str, Any] = {"task": "classification", "split": split, "data": data.source}
    result |= summarise(outputs, data.classes, multilabel=data.multilabel)
    result |= {"knn": knn, "unreadable": [bad._asdict() for bad in queries.bad]}
    finish(args, result, outputs, data.splits()[split])


def finish(args: Evaluate, result: dict[str, Any], outputs: Outputs, images: ImageSet) -> None:
    """The report on the screen, and in the files asked for."""
    from vit.predict.progress import clear
    from vit.tasks.classification.report import print_report, write_json, write_report

    clear()  # the counter stops short of its end where images could not be read
    print_report(result)
    if args.json is not None:
        write_json(args.json, result)
    if args.out is not None:
        write_report(args.out, result, outputs, images.classes, image=images.image, name=images.name)
        print(f"the report and its pictures are in {args.out}")


def detection(args: Evaluate, config: dict[str, Any]) -> None:
    """A detector: COCO's figures."""
    from vit.data.open import reopen
    from vit.predict.progress import progress
    from vit.tasks.classification.report import write_json
    from vit.tasks.detection.evaluate import evaluate_detector

    if args.knn is not None:
        raise UserError("--knn is for classifiers; this checkpoint is a detector.")
    scan = Scan(
        tile=args.tile, overlap=args.overlap, tta=args.tta, flip=flips(args, config) if args.tta else None, nms=args.nms
    )
    data = reopen(config.get("data"), args.data, format=args.format, kind="boxes")
    for note in data.notes:
        print(note, file=sys.stderr)
    split = args.split or next((name for name in ("test", "val") if name in data.splits()), "test")
    result = evaluate_detector(
        args.checkpoint,
        data,
        split,
        scan=scan,
        device=args.device,
        batch_size=args.batch_size,
        workers=args.workers,
        tick=progress(len(data.splits().get(split, ()))),
        out=args.out,
    )
    if args.out is not None:
        print(f"the report and its pictures are in {args.out}")
    if args.json is not None:
        write_json(args.json, result)


def check(args: Evaluate) -> None:
    if args.batch_size < 1 or args.workers < 0 or (args.knn is not None and args.knn < 1):
        raise UserError("--batch-size and --knn must be at least 1, --workers at least 0.")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.absolute().parent}. Make it first.")
    if args.knn is not None and args.split == "train":
        raise UserError("--knn looks for neighbors in the train split: each image would find itself. Use --split test.")


def require_splits(data: Data, split: str, knn: bool) -> None:
    splits = data.splits()
    for needed in (split, "train") if knn else (split,):
        if needed not in splits:
            has = shown([f"{name} ({len(images)} images)" for name, images in splits.items()])
            why = " --knn needs it." if needed != split else f" Try --split {next(iter(splits))}."
            raise UserError(f"{data.source} has no {needed} split; it has {has}.{why}")


def check_data(data: Data, split: str, knn: bool, config: dict[str, Any]) -> None:
    """Raise UserError unless the splits asked for exist and their labels are the checkpoint's. Numbers them alike."""
    require_splits(data, split, knn)
    splits = data.splits()
    if data.multilabel != config.get("multilabel", False):
        kinds = {True: "any number of labels", False: "one class"}
        raise UserError(
            f"{data.source} gives an image {kinds[data.multilabel]}, the checkpoint {kinds[not data.multilabel]}. "
            "A manifest with the column label has one class an image, with labels any number."
        )
    classes = config["classes"]
    occurring = {
        name for images in splits.values() for name, n in zip(images.classes, images.counts(), strict=True) if n
    }
    unknown, absent = sorted(occurring - set(classes)), [name for name in classes if name not in occurring]
    if unknown:
        raise UserError(
            f"the classes of {data.source} are not the checkpoint's. Only in the data: {shown(unknown)}. Only in the "
            f"checkpoint: {shown(absent) if absent else 'none'}. Rename the class folders, or train on this data."
        )
    if absent:
        print(f"No images of {len(absent)} of the checkpoint's classes: {shown(absent)}.", file=sys.stderr)
    for images in splits.values():
        images.relabel(classes)


def flips(args: Evaluate, config: dict[str, Any]) -> bool:
    """Whether mirror images mean the same: only the recipe knows (a mirrored 3 is no 3)."""
    if args.tta_flip != "auto":
        return args.tta_flip == "yes"
    return config.get("augment", {}).get("flip", 0) > 0


def beside(outputs: Outputs | None, classes: Sequence[str], multilabel: bool) -> dict[str, Any]:
    """The headline figures of another way to classify the same images."""
    from vit.tasks.classification.outputs import summarise

    result = summarise(outputs, classes, multilabel=multilabel)
    return {key: result[key] for key in ("n", "top1", "top5", "macro_f1", "map") if key in result}


def neighbors(
    k: int, predictor: Predictor, classes: Sequence[str], queries: Loader[Batch], memory: Loader[Batch]
) -> tuple[Outputs, dict[str, Any]]:
    """k-NN on frozen features, with the images of `memory` as the labeled examples; and its headline figures."""
    from vit.predict.progress import progress
    from vit.tasks.classification.knn import knn_logits
    from vit.tasks.classification.outputs import Outputs, collect

    found = [collect(predictor.features, batches, progress(len(batches.images))) for batches in (memory, queries)]
    known, asked = found
    if known is None or asked is None:
        batches = memory if known is None else queries
        raise UserError(f"--knn: none of the images can be read. The first: {batches.bad[0].reason}")
    logits = knn_logits(asked.logits, known.logits, known.targets, k, num_classes=len(classes))
    outputs = Outputs(logits, asked.targets, asked.index)
    return outputs, {"k": k, "memory": len(known.index), **beside(outputs, classes, outputs.multilabel)}
