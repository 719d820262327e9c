"""`vitral eval`: checkpoint + data -> figures -> report.

vitral eval runs/digits                                 the test split of the data it was trained on
vitral eval runs/digits --data photos --json out.json   class folders of your own; every image counts as test
vitral eval runs/digits --tta --knn 20                  averaged views, and nearest neighbors, beside it
vitral eval timm:NAME --data photos --knn 20            public weights: nearest neighbors on their features
vitral eval runs/detect --tile 640 --out report         a detector, in tiles; its pictures into report/
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vit.errors import UserError
from vit.tasks.evaluation import EvaluationOptions


@dataclass(frozen=True)
class Evaluate(EvaluationOptions):
    """Evaluate a checkpoint and print the report."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")] = ""
    data: str | None = None
    format: Literal["folder", "manifest", "coco", "yolo", "voc", "csv", "jsonl", "parquet", "shards"] | None = None
    model: str | None = None
    image_size: int | None = None
    json: Path | None = None
    out: Path | None = None

    def run(self) -> None:
        main(self)


def main(args: Evaluate) -> None:
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: There is no folder {args.json.absolute().parent}. Make it first.")
    from vit.predict.progress import clear
    from vit.report.files import write_json
    from vit.tasks.checkpoints import evaluation_of
    from vit.tasks.table import TASKS

    options = EvaluationOptions(**{each.name: getattr(args, each.name) for each in fields(EvaluationOptions)})
    evaluation = evaluation_of(
        args.checkpoint,
        args.data,
        options,
        args.format,
        args.model,
        args.image_size,
        lambda note: print(note, file=sys.stderr),
    )
    clear()  # the counter stops short of its end where images could not be read
    report = TASKS[evaluation.result["task"]].part("report")
    report.print_report(evaluation.result)
    if args.json is not None:
        write_json(args.json, evaluation.result)
    if args.out is not None:
        report.write_report(args.out, evaluation)
        print(f"The report and its pictures are in {args.out}.")
