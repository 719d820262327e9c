"""Predict with a checkpoint and evaluate it, whatever its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vit.errors import UserError
from vit.pretrained.load import is_public
from vit.runs.checkpoint import find_checkpoint, load_config
from vit.tasks.evaluation import Evaluation
from vit.tasks.evaluation_options import EvaluationOptions
from vit.tasks.table import TASKS, task_of_config

if TYPE_CHECKING:
    from vit.tasks.classification.predict import Predictor
    from vit.tasks.detection.predict import DetectionPredictor
    from vit.tasks.detection.scan.options import Scan


def load(
    checkpoint: str | Path,
    device: str = "auto",
    *,
    threshold: float | Mapping[str, float] | Literal["per-class"] | None = None,
    limit: int | None = None,
    scan: Scan | None = None,
) -> Predictor | DetectionPredictor:
    """A predictor from a checkpoint folder or a run folder (its best checkpoint).

    device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps". threshold, limit, scan: see
    `DetectionPredictor`; None is the default. A classifier takes only a threshold, as a number. Raises UserError if the
    folder is not a checkpoint or an option does not fit its task.
    """
    config = load_config(find_checkpoint(checkpoint))
    options: dict[str, Any] = {"threshold": threshold, "limit": limit, "scan": scan}
    return task_of_config(config).part("predict").load(checkpoint, device=device, **options)


@dataclass(frozen=True)
class Question:
    """Which checkpoint to evaluate, and on which data."""

    checkpoint: str
    """A run or checkpoint folder, or public weights."""
    data: str | None = None
    """Default: the data that the checkpoint was trained on."""
    format: str | None = None
    """Format of the data, if it could be read in several."""
    model: str | None = None
    """Model name for a file of public weights."""
    image_size: int | None = None
    """Input side in pixels for public weights. Default: the model's own."""


def evaluate(checkpoint: str | Path, data: str | Path | None = None, **options: Any) -> dict[str, Any]:
    """Evaluate a checkpoint or run folder; the metrics, as `vitral eval --json` writes them.

    data: default, the data that the checkpoint was trained on. options: fields of `EvaluationOptions` (split="test",
    tta=True, knn=20, ...), format of the data, and model and image_size for public weights, which nearest neighbors
    evaluate. Raises UserError for a user's mistake.
    """
    source = {name: options.pop(name) for name in ("format", "model", "image_size") if name in options}
    question = Question(str(checkpoint), None if data is None else str(data), **source)
    return evaluation_of(question, EvaluationOptions.of(options)).result


def evaluation_of(
    question: Question, options: EvaluationOptions, log: Callable[[str], object] = lambda note: None
) -> Evaluation:
    """Like `evaluate`, plus what the metrics were computed from. log: called with each note for the user."""
    if is_public(question.checkpoint):
        return TASKS["classification"].part("evaluate").evaluate_public(question, options, log)
    if question.model is not None or question.image_size is not None:
        raise UserError("--model and --image-size are for public weights. Leave them out: a checkpoint stores its own.")
    # Open the data first, to report a misspelled path before any model is built.
    config = load_config(find_checkpoint(question.checkpoint))
    row = task_of_config(config)
    data = row.part("feed").reopen(config.get("data"), question.data, format=question.format)
    for note in data.notes:
        log(note)
    return row.part("evaluate").evaluate(question.checkpoint, data, options)
