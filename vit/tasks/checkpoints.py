"""What can be done with a checkpoint, whatever its task: predict and evaluate."""

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
    """A checkpoint folder, or a run folder (its best checkpoint) -> what predicts with it.

    device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1", "mps". threshold, limit, scan: see
    `DetectionPredictor`; None is the default. A classifier takes a number as threshold and nothing else.

    Raises UserError if it is no checkpoint, or on an option that is not for its task.
    """
    config = load_config(find_checkpoint(checkpoint))
    options: dict[str, Any] = {"threshold": threshold, "limit": limit, "scan": scan}
    return task_of_config(config).part("predict").load(checkpoint, device=device, **options)


@dataclass(frozen=True)
class Question:
    """What is to be evaluated, on what."""

    checkpoint: str
    """A run or checkpoint folder, or public weights."""
    data: str | None = None
    """What the checkpoint was trained on if left out."""
    format: str | None = None
    """Of the data, where it could be read in several."""
    model: str | None = None
    """Of a file of public weights: the name of its model."""
    image_size: int | None = None
    """Of public weights: side of the input in pixels; the model's own if left out."""


def evaluate(checkpoint: str | Path, data: str | Path | None = None, **options: Any) -> dict[str, Any]:
    """The figures of a checkpoint or run folder, as `vitral eval --json` writes them.

    data: what to evaluate on; what the checkpoint was trained on if left out. options: fields of `EvaluationOptions`
    (split="test", tta=True, knn=20, ...), format of the data, and model and image_size for public weights, which are
    judged by nearest neighbors. Raises UserError for a user's mistake.
    """
    source = {name: options.pop(name) for name in ("format", "model", "image_size") if name in options}
    question = Question(str(checkpoint), None if data is None else str(data), **source)
    return evaluation_of(question, EvaluationOptions.of(options)).result


def evaluation_of(
    question: Question, options: EvaluationOptions, log: Callable[[str], object] = lambda note: None
) -> Evaluation:
    """As `evaluate`, with what the figures were computed from. log: is called with each line for the user."""
    if is_public(question.checkpoint):
        return TASKS["classification"].part("evaluate").evaluate_public(question, options, log)
    if question.model is not None or question.image_size is not None:
        raise UserError("--model and --image-size go with public weights; a checkpoint knows its own.")
    # The data first: a misspelt path is reported before any model is built.
    config = load_config(find_checkpoint(question.checkpoint))
    row = task_of_config(config)
    data = row.part("feed").reopen(config.get("data"), question.data, format=question.format)
    for note in data.notes:
        log(note)
    return row.part("evaluate").evaluate(question.checkpoint, data, options)
