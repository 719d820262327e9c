"""The training loop, for any Task.

Randomness in a step is a pure function of (seed, step), the order of samples one of (seed, epoch), so that a resumed
run matches an uninterrupted one.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vit.errors import Stopped
from vit.optim.optimizers import let_learn, set_lr
from vit.optim.schedule import Loop
from vit.tasks.evaluation import evaluate, is_better, until_stopped
from vit.tasks.precision import autocast
from vit.tasks.run import Parts
from vit.tasks.task import Metrics, Task
from vit.training.batch_norm import batch_norms, with_statistics
from vit.training.log import RunLog
from vit.training.meter import Meter
from vit.training.safety import Safety
from vit.training.state import Progress, Resumable
from vit.training.step import fitting_step, train_step

Save = Callable[[str, dict[str, Tensor], dict[str, Any], dict[str, Any]], None]
"""Called with "last" or "best", the weights to save, the validation metrics, and the state for resuming."""


@dataclass
class _Fit:
    """The shared state of the steps of one `fit` call."""

    parts: Parts
    log: RunLog
    save: Save
    safety: Safety
    state: Resumable
    feed: Generator[Any] = field(init=False)
    stage: int = -1
    """0 while only the head is trained, then 1; -1: not started."""
    learner: Task = field(init=False)
    """The task with its model distributed over the processes."""
    running: list[Tensor] = field(default_factory=list)
    """Buffers of trainable batch norms, which a skipped step must not change."""

    def __post_init__(self) -> None:
        self.learner = self.parts.task
        self.feed = until_stopped(self.parts.batches, self.safety.stop)

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and save."""
        return self.parts.ema.state if self.parts.ema is not None else self.parts.task.model.state_dict()


def fit(
    parts: Parts, log: RunLog, save: Save, *, resume: dict[str, Any] | None = None, safety: Safety | None = None
) -> Progress:
    """Train until `parts.loop.steps` or until validation stops improving.

    resume: the state that `save` last got; `parts.batches` then start at its step. Raises Stopped after a signal, once
    "last" is saved, and UserError if loss and gradients stay non-finite.
    """
    safety, task, loop = safety or Safety(), parts.task, parts.loop
    at = Progress(parts=loop.accumulate)
    scaler = torch.amp.GradScaler(next(task.model.parameters()).device.type, enabled=loop.amp == torch.float16)
    meter = Meter(loop.steps_per_epoch)
    state = Resumable(task.model, parts.optimizers, scaler, parts.ema, at, meter, safety.world.sharded)
    if resume is not None:
        state.load(resume)
    run = _Fit(parts, log, save, safety, state)
    with safety.stop.holding():
        try:
            while True:
                if loop.evaluates(at.step) and at.evaluated < at.step:
                    _judge(run)
                if at.step >= loop.steps or _stands_still(at, loop):
                    break
                _enter_stage(run)
                set_lr(parts.optimizers, loop.rate(at.step) * at.rate)
                _step(run)
                at.step += 1
                if safety.gives_up(at):
                    _go_back(run)
                    continue
                _log_and_save(run)
        except Stopped:
            save("last", run.weights(), {}, state.state())
            raise
        finally:
            run.feed.close()
    if _stands_still(at, loop):
        log.say(f"Early stop: {task.score} has not improved for {at.stale} evaluations.")
    return at


def _enter_stage(run: _Fit) -> None:
    """Train only the head during the schedule's first steps, then everything."""
    stage = int(run.state.progress.step >= run.parts.loop.head_steps)
    if stage == run.stage:
        return
    run.stage, model = stage, run.parts.task.model
    let_learn(run.parts.optimizers, head_only=stage == 0)
    _to_training(model)
    run.learner = run.safety.spread(run.parts.task)
    run.running = [b for norm in batch_norms(model).values() for b in norm.buffers()]


def _step(run: _Fit) -> None:
    """One update of the weights by the next batch; skipped if its loss or gradient is not finite."""
    parts, at, meter = run.parts, run.state.progress, run.state.meter
    batch = next(run.feed)
    before = [buffer.clone() for buffer in run.running]
    loss = _updated(run, batch)
    if math.isfinite(loss):
        at.bad = 0
        meter.add(loss, len(batch.images))
        if parts.ema is not None:
            parts.ema.update(parts.task.model)
        return
    for buffer, value in zip(run.running, before, strict=True):
        buffer.copy_(value)
    at.bad += 1
    meter.skip(len(batch.images))
    run.safety.left_out(run.state, batch, parts.loop, run.log, float(loss))


def _updated(run: _Fit, batch: Any) -> Tensor:
    """The loss of `train_step`; if memory runs out, batches are split into more parts from then on."""
    parts, at, world = run.parts, run.state.progress, run.safety.world

    def take(count: int) -> Tensor:
        # After `next`, since starting workers draws from the same random stream.
        torch.manual_seed(parts.loop.step_seed(at.step, world.rank))
        loop = replace(parts.loop, accumulate=count)
        return train_step(run.learner, batch, parts.optimizers, loop, run.state.scaler, world)

    if world.size > 1:
        return take(at.parts)  # other processes are in the middle of the same step
    loss, count = fitting_step(take, at.parts, len(batch.images), parts.optimizers, batch.images.device)
    if count != at.parts:
        at.parts = count
        run.log.say(f"Memory ran out at step {at.step}: batches of {len(batch.images)} images now go in {count} parts.")
    return loss


def _go_back(run: _Fit) -> None:
    """Return to the last good checkpoint."""
    run.safety.go_back(run.state, run.log)
    run.feed.close()
    run.feed = until_stopped(run.parts.batches.starting_at(run.state.progress.step), run.safety.stop)
    run.stage = -1


def _log_and_save(run: _Fit) -> None:
    """Log a row and save a checkpoint if due. Raises Stopped after a signal."""
    at, meter, stop = run.state.progress, run.state.meter, run.safety.stop
    evaluates = run.parts.loop.evaluates(at.step)
    # Also before each evaluation, so that a resumed run logs the same rows as an uninterrupted one.
    if evaluates or at.step % run.parts.loop.log_every == 0:
        run.log.train(meter.row(at.step, run.parts.optimizers), steps_done=meter.steps)
    ending, saving = run.safety.world.any(stop.signal is not None, stop.save or run.safety.due(at.step))
    if ending:
        raise Stopped(stop.signal or signal.SIGTERM)
    if saving and not evaluates and at.bad == 0:
        stop.save = False
        run.save("last", run.weights(), {}, run.state.state())


def _judge(run: _Fit) -> None:
    """Evaluate the weights, and save them as "last" and, if best, as "best"."""
    parts, at, meter, task, loop = run.parts, run.state.progress, run.state.meter, run.parts.task, run.parts.loop
    weights, metrics = run.weights(), None
    if parts.plain is not None:
        with autocast(next(task.model.parameters()).device, loop.amp):
            weights = with_statistics(task.model, weights, until_stopped(parts.plain(), run.safety.stop))
    if parts.validation is not None:
        metrics = _validate(run, weights)
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
        run.log.val({"step": at.step, "epoch": epoch, **numbers}, _line(at, loop, meter, task.score, value, keeps))
    # Save the best first: after a crash between the two, "last" leads to it again.
    if keeps or parts.validation is None:
        run.save("best", weights, numbers, {})
    meter.restart()
    if at.bad == 0 or at.step == loop.steps:  # otherwise the last good one stays
        run.save("last", weights, numbers, run.state.state())


def _validate(run: _Fit, weights: dict[str, Tensor]) -> Metrics:
    """Metrics of `weights` on the validation data; the model's own weights are restored afterward."""
    parts, task, safety = run.parts, run.parts.task, run.safety
    assert parts.validation is not None
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
        parts.watch(metrics, index, math.ceil(run.state.progress.step / parts.loop.steps_per_epoch))
    return metrics


def _to_training(model: nn.Module) -> None:
    """Training mode, but evaluation mode for fully frozen modules, so that their running statistics stay."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _stands_still(at: Progress, loop: Loop) -> bool:
    return loop.patience is not None and at.stale >= loop.patience


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
