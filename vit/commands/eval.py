"""`vitral eval`: checkpoint + data -> metrics -> report.

vitral eval runs/digits                                 the test split of the data it was trained on
vitral eval runs/digits --data photos --json out.json   class folders of your own; every image counts as test
vitral eval runs/digits --tta --knn 20                  also averaged views and nearest neighbors
vitral eval timm:NAME --data photos --knn 20            public weights: nearest neighbors on their features
vitral eval runs/detect --tile 640 --out report         a detector, in tiles; pictures in report/
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.errors import UserError
from vit.tasks.evaluation_options import EvaluationOptions


def main(arguments: Sequence[str]) -> None:
    parse(Evaluate, arguments, "vitral eval").run()


@dataclass(frozen=True, kw_only=True)
class Evaluate(EvaluationOptions):
    """Evaluate a checkpoint and print the report."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "data format split batch_size workers",
        "output": "json out",
        "classifiers": "tta tta_flip knn",
        "detectors": "tile overlap nms",
        "public weights": "model image_size",
        "run": "device",
    }

    checkpoint: Annotated[str, Positional("CHECKPOINT")]
    """A run folder (its best checkpoint) or a checkpoint folder; with --knn also public weights: a file, timm:NAME or
    hf:OWNER/REPO."""
    data: str | None = None
    """Data to evaluate on, as `vitral train` takes it: class folders, a manifest, shards, hf:OWNER/NAME, digits, ...;
    for a detector images with boxes, or scenes. Default: what the checkpoint was trained on."""
    format: Literal["folder", "manifest", "coco", "yolo", "voc", "csv", "jsonl", "parquet", "shards"] | None = None
    """Format of --data, where a folder could be read in more than one format. Default: recognized from the files."""
    json: Path | None = None
    """Write all figures to this file as JSON. Default: no file."""
    out: Path | None = None
    """Folder for report.json and the pictures: confusion.png and mistakes.png; for a detector also precision_recall.png
    and predictions.png. Default: none are written."""
    model: str | None = None
    """Name of the model if CHECKPOINT is a file of public weights; `vitral models` lists them. Default: what CHECKPOINT
    says."""
    image_size: int | None = None
    """Side of the square input of public weights, in pixels. Default: the model's own."""

    def run(self) -> None:
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise UserError(f"--json {self.json}: There is no folder {self.json.absolute().parent}. Make it first.")
        from vit.predict.progress import clear
        from vit.report.files import write_json
        from vit.tasks.checkpoints import Question, evaluation_of
        from vit.tasks.table import TASKS

        options = EvaluationOptions.of({name: getattr(self, name) for name in EvaluationOptions.names()})
        question = Question(self.checkpoint, self.data, self.format, self.model, self.image_size)
        evaluation = evaluation_of(question, options, lambda note: print(note, file=sys.stderr))
        clear()  # the counter does not reach its end if images could not be read
        report = TASKS[evaluation.result["task"]].part("report")
        report.print_report(evaluation.result)
        if self.json is not None:
            write_json(self.json, evaluation.result)
        if self.out is not None:
            report.write_report(self.out, evaluation)
            print(f"The report and its pictures are in {self.out}.")
