"""The training loop and the evaluation loop, for any Task.

Nothing here knows a model. Randomness in a step is a pure function of (seed, step), the order of samples one of
(seed, epoch): a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vit.errors import Stopped
from vit.optim.optimizers import Ema, let_learn, set_lr
from vit.processes.signals import Stop
from vit.processes.world import ALONE, World
from vit.runs.background import snapshot
from vit.tasks.classification.metrics import is_better
from vit.tasks.task import Metrics, Task
from vit.training.batch_norm import batch_norms, with_statistics
from vit.training.log import RunLog
from vit.training.meter import Meter
from vit.training.safety import Safety
from vit.training.schedule import Batches, Loop, Save
from vit.training.state import Progress, Resumable
from vit.training.step import autocast, fitting_step, train_step


def fit(
    task: Task,
    batches: Batches,
    validation: Callable[[], Iterable[Any]] | None,
    optimizers: list[Optimizer],
    loop: Loop,
    log: RunLog,
    save: Save,
    *,
    ema: Ema | None = None,
    resume: dict[str, Any] | None = None,
    watch: Callable[[Any, int], object] | None = None,
    plain: Callable[[], Iterable[Any]] | None = None,
    safety: Safety | None = None,
) -> Progress:
    """Train until `loop.steps` or until validation stands still.

    `resume` is what `save` was last given; `batches` then begin at the step it stopped at. `watch` is shown the metrics
    of every evaluation and the epoch that it ends. `plain` are training images without augmentation: the statistics of
    batch norms are taken over them whenever weights are judged and kept.

    Raises Stopped once a signal has come and "last" is saved, and UserError when loss and gradients do not become
    finite again.
    """
    safety = safety or Safety()
    stop, world, model, at = safety.stop, safety.world, task.model, Progress(parts=loop.accumulate)
    scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=loop.amp == torch.float16)
    meter = Meter(loop.steps_per_epoch)
    run = Resumable(model, optimizers, scaler, ema, at, meter, world.sharded)
    if resume is not None:
        run.load(resume)
    learner, running, staged = task, [], -1
    feed = _feed(batches, stop)

    def now() -> dict[str, Tensor]:
        return ema.state if ema is not None else model.state_dict()

    with stop.holding():
        try:
            while True:
                if loop.evaluates(at.step) and at.evaluated < at.step:
                    _evaluated(task, validation, now(), run, loop, log, save, watch, plain, safety)
                if at.step >= loop.steps or _stands_still(at, loop):
                    break
                stage = int(at.step >= loop.head_steps)
                if stage != staged:
                    staged = stage
                    let_learn(optimizers, head_only=stage == 0)
                    _to_training(model)
                    learner = safety.spread(task)
                    running = [b for norm in batch_norms(model).values() for b in norm.buffers()]
                set_lr(optimizers, loop.rate(at.step) * at.rate)
                batch = next(feed)
                before = [buffer.clone() for buffer in running]
                loss = _step(learner, batch, optimizers, loop, scaler, at, safety, log)
                if math.isfinite(loss):
                    at.bad = 0
                    meter.add(loss, len(batch.images))
                    if ema is not None:
                        ema.update(model)
                else:
                    for buffer, value in zip(running, before, strict=True):
                        buffer.copy_(value)
                    at.bad += 1
                    meter.skip(len(batch.images))
                    safety.left_out(run, batch, loop, log, float(loss))
                at.step += 1
                if safety.gives_up(at):
                    safety.go_back(run, log)
                    feed.close()
                    feed, staged = _feed(batches.starting_at(at.step), stop), -1
                    continue
                evaluates = loop.evaluates(at.step)
                # A row before each evaluation too: a resumed run's rows are the uninterrupted run's.
                if evaluates or at.step % loop.log_every == 0:
                    log.train(meter.row(at.step, optimizers), steps_done=meter.steps)
                ending, saving = world.any(stop.signal is not None, stop.save or safety.due(at.step))
                if ending:
                    raise Stopped(stop.signal or signal.SIGTERM)
                if saving and not evaluates and at.bad == 0:
                    stop.save = False
                    save("last", now(), {}, run.state())
        except Stopped:
            save("last", now(), {}, run.state())
            raise
        finally:
            feed.close()
    if _stands_still(at, loop):
        log.say(f"early stop: {task.score} has not improved for {at.stale} evaluations")
    return at


def evaluate(
    task: Task,
    batches: Iterable[Any],
    amp: torch.dtype | None = None,
    *,
    world: World = ALONE,
    stop: Stop | None = None,
) -> Metrics:
    """Metrics of the model over all batches, those of the other processes among them: each image is counted once, in
    the order of its index, as in one process. The model is in its former mode afterwards."""
    metrics, modes = task.metrics(), {module: module.training for module in task.model.modules()}
    device, rows, stop = next(task.model.parameters()).device, [], stop or Stop()
    task.model.eval()
    try:
        # What FSDP2 brings together must not become tensors of inference, which no later pass could use.
        with torch.no_grad() if world.sharded else torch.inference_mode(), autocast(device, amp):
            for batch in world.together(_feed(batches, stop), stop, device):
                outputs = task.predict(batch.images)
                if batch.targets is not None:
                    metrics.update(outputs, batch.targets)
                    rows += batch.index.tolist() if world.size > 1 else []
    finally:
        for module, training in modes.items():
            module.training = training
    if world.size == 1:
        return metrics
    found = world.gather((snapshot(metrics.state()), rows))
    index = [row for _, own in found for row in own]
    return metrics.merged([state for state, _ in found], sorted(range(len(index)), key=index.__getitem__))


def _evaluated(
    task: Task,
    validation: Callable[[], Iterable[Any]] | None,
    weights: dict[str, Tensor],
    run: Resumable,
    loop: Loop,
    log: RunLog,
    save: Save,
    watch: Callable[[Any, int], object] | None,
    plain: Callable[[], Iterable[Any]] | None,
    safety: Safety,
) -> None:
    """Judge `weights`, and save them as "last" and, if they are, as "best"."""
    model, at, meter, stop = task.model, run.progress, run.meter, safety.stop
    if plain is not None:
        with autocast(next(model.parameters()).device, loop.amp):
            weights = with_statistics(model, weights, _feed(plain(), stop))
    metrics = None
    if validation is not None:
        metrics = _validate(task, validation, weights, loop.amp, safety)
    numbers = _numbers(metrics)
    if metrics is not None and watch is not None:
        watch(metrics, math.ceil(at.step / loop.steps_per_epoch))
    value = numbers.get(task.score)
    keeps = _keeps(value, at.best, task.uncertainty(numbers))
    at.evaluated = at.step
    at.best_step = at.step if keeps else at.best_step
    if is_better(value, at.best):
        at.best, at.stale = value, 0
    elif validation is not None and at.step > loop.head_steps:
        at.stale += 1
    if numbers:
        epoch = at.step / loop.steps_per_epoch
        log.val({"step": at.step, "epoch": epoch, **numbers}, _val_line(at, loop, numbers, meter, task.score, keeps))
    # The best first: a crash between the two leaves a "last" that finds it again.
    if keeps or validation is None:
        save("best", weights, numbers, {})
    meter.restart()
    if at.bad == 0 or at.step == loop.steps:  # the last that all was well at stays
        save("last", weights, numbers, run.state())


def _feed(batches: Iterable[Any], stop: Stop) -> Generator[Any]:
    """The batches; what waits for one may be left when a signal comes."""
    iterator = iter(batches)
    while True:
        with stop.waiting():
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch


def _step(
    task: Task,
    batch: Any,
    optimizers: list[Optimizer],
    loop: Loop,
    scaler: torch.amp.GradScaler,
    at: Progress,
    safety: Safety,
    log: RunLog,
) -> Tensor:
    """`train_step` of step `at.step`; where memory runs out, in more parts from then on."""

    def take(parts: int) -> Tensor:
        # After `next`: starting workers draws from the same stream.
        torch.manual_seed(loop.step_seed(at.step, safety.world.rank))
        return train_step(task, batch, optimizers, replace(loop, accumulate=parts), scaler, safety.world)

    if safety.world.size > 1:
        return take(at.parts)  # the others are in the middle of the same step
    loss, parts = fitting_step(take, at.parts, len(batch.images), optimizers, batch.images.device)
    if parts != at.parts:
        at.parts = parts
        log.say(f"memory ran out at step {at.step}: batches of {len(batch.images)} images now go in {parts} parts")
    return loss


def _to_training(model: nn.Module) -> None:
    """Training mode, but evaluation mode for whatever is frozen as a whole: its running statistics stay too."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _stands_still(at: Progress, loop: Loop) -> bool:
    return loop.patience is not None and at.stale >= loop.patience


def _validate(
    task: Task,
    validation: Callable[[], Iterable[Any]],
    weights: dict[str, Tensor],
    amp: torch.dtype | None,
    safety: Safety,
) -> Metrics:
    """Metrics of `weights` on the validation data; the model's own weights are back in place afterwards."""
    model = task.model
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        return evaluate(task, validation(), amp, world=safety.world, stop=safety.stop)
    finally:
        model.load_state_dict(own)


def _numbers(metrics: Metrics | None) -> dict[str, Any]:
    scalars = metrics.scalars() if metrics is not None else {}
    return {k: v for k, v in scalars.items() if v is None or isinstance(v, int | float)}


def _keeps(value: float | None, best: float | None, uncertainty: float) -> bool:
    """Whether weights that score `value` replace the best so far: unless they are worse by more than one standard
    error (the one-standard-error rule; Breiman et al. 1984, section 3.4.3).

    A few hundred validation images cannot tell 98.8 from 98.4 %. Between two that they cannot tell apart, the later
    weights have seen more data at a lower rate; taking the highest score instead picks a lucky early one.
    """
    if value is None or math.isnan(value):
        return False
    return best is None or value >= best - uncertainty


def _val_line(at: Progress, loop: Loop, numbers: dict[str, Any], meter: Meter, score: str, kept: bool) -> str:
    epoch, epochs = at.step / loop.steps_per_epoch, loop.steps / loop.steps_per_epoch
    value = numbers.get(score)
    shown = "undefined" if value is None else f"{value:.2%}"
    return (
        f"epoch {epoch:>4.0f}/{epochs:.0f}  loss {meter.loss:.4f}  lr {meter.lr:.1e}  {meter.rate:>6.0f} img/s  "
        f"val {score} {shown}{' *' if kept else '  '}"
    )
