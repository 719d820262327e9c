"""What can be done with a checkpoint, whatever its task: predict and evaluate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vit.errors import UserError
from vit.pretrained.load import is_public
from vit.runs.checkpoint import find_checkpoint, load_config
from vit.tasks.evaluation import Evaluation, EvaluationOptions
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


def evaluate(
    checkpoint: str | Path,
    data: str | Path | None = None,
    *,
    format: str | None = None,
    model: str | None = None,
    image_size: int | None = None,
    notes: Callable[[str], object] = lambda note: None,
    **options: Any,
) -> dict[str, Any]:
    """The figures of a checkpoint or run folder, as `vitral eval --json` writes them.

    data: what to evaluate on; what the checkpoint was trained on if left out. options: fields of `EvaluationOptions`
    (split="test", tta=True, knn=20, ...). model, image_size: for public weights, which are judged by nearest neighbors.
    notes: is called with each line for the user. Raises UserError for a user's mistake.
    """
    source, chosen = None if data is None else str(data), EvaluationOptions.of(options)
    return evaluation_of(str(checkpoint), source, chosen, format, model, image_size, notes).result


def evaluation_of(
    checkpoint: str,
    data: str | None,
    options: EvaluationOptions,
    format: str | None = None,
    model: str | None = None,
    image_size: int | None = None,
    notes: Callable[[str], object] = lambda note: None,
) -> Evaluation:
    """As `evaluate`, with what the figures were computed from."""
    if is_public(checkpoint):
        public = TASKS["classification"].part("evaluate")
        return public.evaluate_public(checkpoint, data, options, format=format, model=model, image_size=image_size)
    if model is not None or image_size is not None:
        raise UserError("--model and --image-size go with public weights; a checkpoint knows its own.")
    # The data first: a misspelt path is reported before any model is built.
    config = load_config(find_checkpoint(checkpoint))
    row = task_of_config(config)
    opened = row.part("feed").reopen(config.get("data"), data, format=format)
    for note in opened.notes:
        notes(note)
    return row.part("evaluate").evaluate(checkpoint, opened, options)
