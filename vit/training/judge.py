"""An evaluation between steps: are these weights the best so far? "best" and "last" are saved by the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from vit.optim.schedule import Loop
from vit.tasks.evaluation import evaluate, is_better, until_stopped
from vit.tasks.precision import autocast
from vit.tasks.run import Parts
from vit.tasks.task import Metrics
from vit.training.batch_norm import with_statistics
from vit.training.log import RunLog
from vit.training.meter import Meter
from vit.training.safety import Safety
from vit.training.state import Progress, Resumable

Save = Callable[[str, dict[str, Tensor], dict[str, Any], dict[str, Any]], None]
"""Called with "last" or "best", the weights to save, the validation metrics, and the state for resuming."""


def weights_of(parts: Parts) -> dict[str, Tensor]:
    """The weights to evaluate and save: the moving average, or the model's own."""
    return parts.ema.state if parts.ema is not None else parts.task.model.state_dict()


def judge(parts: Parts, state: Resumable, log: RunLog, save: Save, safety: Safety) -> None:
    """Evaluate the weights, and save them as "last" and, if best, as "best"."""
    at, meter, task, loop = state.progress, state.meter, parts.task, parts.loop
    weights, metrics = weights_of(parts), None
    if parts.plain is not None:
        with autocast(next(task.model.parameters()).device, loop.amp):
            weights = with_statistics(task.model, weights, until_stopped(parts.plain(), safety.stop))
    if parts.validation is not None:
        metrics = _validate(parts, state, safety, weights)
    numbers = _numbers(metrics)
    value = numbers.get(task.score)
    keeps = _keeps(value, at.best, task.uncertainty(numbers))
    at.evaluated = at.step
    at.best_step = at.step if keeps else at.best_step
    if is_better(value, at.best):
        at.best, at.stale = value, 0
    elif parts.validation is not None and at.step > loop.head_steps:
        at.stale += 1
    if numbers:
        epoch = at.step / loop.steps_per_epoch
        log.val({"step": at.step, "epoch": epoch, **numbers}, _line(at, loop, meter, task.score, value, keeps))
    # Save the best first: after a crash between the two, "last" leads to it again.
    if keeps or parts.validation is None:
        save("best", weights, numbers, {})
    meter.restart()
    if at.bad == 0 or at.step == loop.steps:  # otherwise the last good one stays
        save("last", weights, numbers, state.state())


def _validate(parts: Parts, state: Resumable, safety: Safety, weights: dict[str, Tensor]) -> Metrics:
    """Metrics of `weights` on the validation data; the model's own weights are restored afterward."""
    assert parts.validation is not None
    task = parts.task
    own = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    task.model.load_state_dict(weights)
    try:
        metrics, index = evaluate(
            task.model,
            lambda batch: task.predict(batch.images),
            parts.validation(),
            task.metrics(),
            amp=parts.loop.amp,
            world=safety.world,
            stop=safety.stop,
        )
    finally:
        task.model.load_state_dict(own)
    if parts.watch is not None and safety.world.main:
        parts.watch(metrics, index, math.ceil(state.progress.step / parts.loop.steps_per_epoch))
    return metrics


def _numbers(metrics: Metrics | None) -> dict[str, Any]:
    scalars = metrics.scalars() if metrics is not None else {}
    return {k: v for k, v in scalars.items() if v is None or isinstance(v, int | float)}


def _keeps(value: float | None, best: float | None, uncertainty: float) -> bool:
    """Whether weights that score `value` replace the best so far: unless they are worse by more than one standard
    error (the one-standard-error rule; Breiman et al. 1984, section 3.4.3).

    A few hundred validation images cannot distinguish 98.8 from 98.4 %. Of indistinguishable weights, later ones have
    seen more data at a lower learning rate, while the highest score may be a lucky early one.
    """
    if value is None or math.isnan(value):
        return False
    return best is None or value >= best - uncertainty


def _line(at: Progress, loop: Loop, meter: Meter, score: str, value: float | None, kept: bool) -> str:
    epoch, epochs = at.step / loop.steps_per_epoch, loop.steps / loop.steps_per_epoch
    shown = "undefined" if value is None else f"{value:.2%}"
    return (
        f"epoch {epoch:>4.0f}/{epochs:.0f}  loss {meter.loss:.4f}  lr {meter.lr:.1e}  {meter.rate:>6.0f} img/s  "
        f"val {score} {shown}{' *' if kept else '  '}"
    )
