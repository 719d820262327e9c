"""Evaluate a checkpoint of a classifier or a detector: checkpoint + data -> metrics -> report.

vitral eval runs/digits                                 the test split of the data it was trained on
vitral eval runs/digits --data photos --json out.json   class folders of your own; every image counts as test
vitral eval runs/digits --tta --knn 20                  averaged views, and nearest neighbors, beside it
vitral eval timm:NAME --data photos --knn 20            public weights: nearest neighbors on their features
vitral eval runs/detect --tile 640 --out report         a detector, in tiles; its pictures into report/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vit.commands.cli.options import Positional, parse
from vit.errors import UserError, shown
from vit.tasks.detection.scan.options import Scan

if TYPE_CHECKING:
    from vit.data import Data, ImageSet
    from vit.data.load.loader import Loader
    from vit.tasks.classification.outputs import Outputs
    from vit.tasks.classification.predict import Predictor


def main(arguments: Sequence[str]) -> None:
    parse(Evaluate, arguments, "vitral eval").run()


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a checkpoint and print the report."""

    checkpoint: Annotated[str, Positional("CHECKPOINT")]
    """A run folder (its best checkpoint) or a checkpoint folder; with --knn also public weights: a file, timm:NAME or
    hf:OWNER/REPO."""
    data: str | None = None
    """Data to evaluate on, as `vitral train` takes it: class folders, a manifest, shards, hf:OWNER/NAME, digits, ...;
    for a detector images with boxes, or scenes. Default: what the checkpoint was trained on."""
    format: Literal["folder", "manifest", "coco", "yolo", "voc", "csv", "jsonl", "parquet", "shards"] | None = None
    """Format of --data, where a folder could be read in several. Default: recognized from the files."""
    split: Literal["train", "val", "test"] | None = None
    """Split to evaluate. Default: test, or val if the data has no test split."""
    json: Path | None = None
    """Write all figures to this file as JSON. Default: no file."""
    out: Path | None = None
    """Folder for report.json and the pictures: confusion.png and mistakes.png; for a detector also precision_recall.png
    and predictions.png. Default: none are written."""
    tta: bool = False
    """Test-time augmentation: several scales, and mirror images if training had them. A classifier's averaged
    probabilities are reported beside the plain figures, a detector's fused boxes in place of them."""
    tta_flip: Literal["auto", "yes", "no"] = "auto"
    """Use mirror images in --tta; auto: if training mirrored images."""
    knn: int | None = None
    """Also classify by this many nearest neighbors among the features of the train split. Public weights, which have no
    head for these classes, are evaluated by that alone. Default: no nearest neighbors."""
    model: str | None = None
    """Name of the model if CHECKPOINT is a file of public weights; `vitral models` lists them. Default: what CHECKPOINT
    says."""
    image_size: int | None = None
    """Side of the square input of public weights, in pixels. Default: the model's own."""
    tile: int | None = None
    """Side, in pixels of the image, of tiles that a detector also looks at. Default: no tiles."""
    overlap: float = Scan.overlap
    """Fraction of a tile's side that it shares with the next tile."""
    nms: float | None = None
    """Drop a box of a detector that a better box of its class overlaps by more than this IoU. Default: no box is
    dropped."""
    batch_size: int = 64
    """Images per batch."""
    workers: int = 0
    """Processes that read images; 0 reads them in the main process."""
    device: str = "auto"
    """Device to compute on: auto, cpu, cuda, cuda:1 or mps."""

    def run(self) -> None:
        evaluate(self)


def evaluate(args: Evaluate) -> None:
    check(args)
    from vit.data import eval_loader, reopen
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
    data = reopen(config.get("data"), args.data, format=args.format)
    for note in data.notes:
        print(note, file=sys.stderr)
    split = args.split or ("val" if "val" in data.splits() and "test" not in data.splits() else "test")
    check_data(data, split, args.knn is not None, config)
    if args.tile is not None or args.nms is not None:
        raise UserError("--tile and --nms are for detectors; this checkpoint is a classifier.")
    predictor = Predictor(*load_model(args.checkpoint), device=args.device)
    classes, multilabel = predictor.classes, predictor.multilabel

    splits = data.splits()
    loader = partial(
        eval_loader,
        preprocess=predictor.preprocess,
        batch_size=args.batch_size,
        workers=args.workers,
        device=predictor.device,
    )
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
    from vit.data import eval_loader, open_data
    from vit.tasks.classification.features import open_encoder
    from vit.tasks.classification.outputs import summarise

    if args.knn is None or args.data is None or args.tta or args.tile is not None or args.nms is not None:
        raise UserError(
            f"{args.checkpoint} has no head for the classes of your data. Its features can be judged by nearest "
            "neighbors: with --data and --knn 20, without --tta, --tile and --nms. `vitral train probe` trains a head."
        )
    data = open_data(args.data, format=args.format)
    split = args.split or ("test" if data.test else "val")
    require_splits(data, split, knn=True)
    encoder, notes = open_encoder(args.checkpoint, model=args.model, image_size=args.image_size, device=args.device)
    for note in (*data.notes, *notes):
        print(note, file=sys.stderr)
    queries, train = (
        eval_loader(
            data.splits()[name],
            encoder.preprocess,
            batch_size=args.batch_size,
            workers=args.workers,
            device=encoder.device,
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
    from vit.data.open_detection import reopen_detection
    from vit.predict.progress import progress
    from vit.tasks.classification.report import write_json
    from vit.tasks.detection.evaluate import evaluate_detector

    if args.knn is not None:
        raise UserError("--knn is for classifiers; this checkpoint is a detector.")
    scan = Scan(
        tile=args.tile, overlap=args.overlap, tta=args.tta, flip=flips(args, config) if args.tta else None, nms=args.nms
    )
    data = reopen_detection(config.get("data"), args.data, format=args.format)
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
    k: int, predictor: Predictor, classes: Sequence[str], queries: Loader, memory: Loader
) -> tuple[Outputs, dict[str, Any]]:
    """k-NN on frozen features, with the images of `memory` as the labeled examples; and its headline figures."""
    from vit.predict.progress import progress
    from vit.tasks.classification.knn import knn_logits
    from vit.tasks.classification.outputs import Outputs, collect

    found = [collect(predictor.features, batches, progress(len(batches.targets))) for batches in (memory, queries)]
    known, asked = found
    if known is None or asked is None:
        batches = memory if known is None else queries
        raise UserError(f"--knn: none of the images can be read. The first: {batches.bad[0].reason}")
    logits = knn_logits(asked.logits, known.logits, known.targets, k, num_classes=len(classes))
    outputs = Outputs(logits, asked.targets, asked.index)
    return outputs, {"k": k, "memory": len(known.index), **beside(outputs, classes, outputs.multilabel)}
