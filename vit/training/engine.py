"""The training loop, for any Task.

Randomness in a step is a pure function of (seed, step), the order of samples one of (seed, epoch), so that a resumed
run matches an uninterrupted one.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from vit.errors import Stopped
from vit.optim.optimizers import let_learn, set_lr
from vit.optim.schedule import Loop
from vit.processes.world import ALONE, World
from vit.tasks.evaluation import until_stopped
from vit.tasks.precision import autocast
from vit.tasks.run import Parts
from vit.tasks.task import Task
from vit.training.batch_norm import batch_norms
from vit.training.judge import Save, judge, weights_of
from vit.training.log import RunLog
from vit.training.memory import fitting_step
from vit.training.meter import Meter
from vit.training.safety import Safety
from vit.training.state import Progress, Resumable


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
    fitting = _Fit(parts, log, save, safety, state)
    with safety.stop.holding():
        try:
            while True:
                if loop.evaluates(at.step) and at.evaluated < at.step:
                    judge(parts, state, log, save, safety)
                if at.step >= loop.steps or _stands_still(at, loop):
                    break
                _enter_stage(fitting)
                set_lr(parts.optimizers, loop.rate(at.step) * at.rate)
                _step(fitting)
                at.step += 1
                if safety.gives_up(at):
                    _go_back(fitting)
                    continue
                _log_and_save(fitting)
        except Stopped:
            save("last", weights_of(parts), {}, state.state())
            raise
        finally:
            fitting.feed.close()
    if _stands_still(at, loop):
        log.say(f"Early stop: {task.score} has not improved for {at.stale} evaluations.")
    return at


def _enter_stage(fitting: _Fit) -> None:
    """Train only the head during the schedule's first steps, then everything."""
    stage = int(fitting.state.progress.step >= fitting.parts.loop.head_steps)
    if stage == fitting.stage:
        return
    fitting.stage, model = stage, fitting.parts.task.model
    let_learn(fitting.parts.optimizers, head_only=stage == 0)
    _to_training(model)
    fitting.learner = fitting.safety.spread(fitting.parts.task)
    fitting.running = [b for norm in batch_norms(model).values() for b in norm.buffers()]


def _step(fitting: _Fit) -> None:
    """One update of the weights by the next batch; skipped if its loss or gradient is not finite."""
    parts, at, meter = fitting.parts, fitting.state.progress, fitting.state.meter
    batch = next(fitting.feed)
    before = [buffer.clone() for buffer in fitting.running]
    loss = _updated(fitting, batch)
    if math.isfinite(loss):
        at.bad = 0
        meter.add(loss, len(batch.images))
        if parts.ema is not None:
            parts.ema.update(parts.task.model)
        return
    for buffer, value in zip(fitting.running, before, strict=True):
        buffer.copy_(value)
    at.bad += 1
    meter.skip(len(batch.images))
    fitting.safety.left_out(fitting.state, batch, parts.loop, fitting.log, float(loss))


def _updated(fitting: _Fit, batch: Any) -> Tensor:
    """The loss of `train_step`; if memory runs out, batches are split into more parts from then on."""
    parts, at, world = fitting.parts, fitting.state.progress, fitting.safety.world

    def take(count: int) -> Tensor:
        # After `next`, since starting workers draws from the same random stream.
        torch.manual_seed(parts.loop.step_seed(at.step, world.rank))
        loop = replace(parts.loop, accumulate=count)
        return train_step(fitting.learner, batch, parts.optimizers, loop, fitting.state.scaler, world)

    if world.size > 1:
        return take(at.parts)  # other processes are in the middle of the same step
    loss, count = fitting_step(take, at.parts, len(batch.images), parts.optimizers, batch.images.device)
    if count != at.parts:
        at.parts = count
        fitting.log.say(
            f"Memory ran out at step {at.step}: batches of {len(batch.images)} images now go in {count} parts."
        )
    return loss


def train_step(
    task: Task,
    batch: Any,
    optimizers: list[Optimizer],
    loop: Loop,
    scaler: torch.amp.GradScaler | None = None,
    world: World = ALONE,
) -> Tensor:
    """Update the weights once; the loss, still on the device.

    If the loss or the gradient is not finite, neither is the returned loss, and weights and optimizers stay unchanged.
    (Steps that overflow while a half-precision scaler searches its factor are also skipped, but return their loss.)
    With several processes, `batch` is this process's share, and the loss is that of the whole batch.
    """
    device, total = batch.images.device, torch.zeros((), device=batch.images.device)
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    count, shares = _shares(task, batch, loop.accumulate, world)
    images, targets = split(batch.images, count), split(batch.targets, count)
    for i, (part, truth) in enumerate(zip(images, targets, strict=True)):
        with world.last(task.model, i + 1 == count):
            with autocast(device, loop.amp):
                terms = task.losses(part, truth)
            loss = torch.stack(list(terms.values())).sum() * shares[i]
            scaler.scale(loss).backward()
        total += loss.detach()
    total = world.mean(total)
    # The scaler rejects an optimizer without gradients.
    optimizers = [o for o in optimizers if any(p.grad is not None for g in o.param_groups for p in g["params"])]
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    trained = [p for p in task.model.parameters() if p.requires_grad]
    norm = world.whole(clip_grad_norm_(trained, loop.clip) if loop.clip is not None else _norm(trained))
    # The only synchronization with the device.
    loss_finite, norm_finite = torch.stack([total.isfinite(), norm.isfinite()]).tolist()
    if not loss_finite or not (norm_finite or (scaler.is_enabled() and scaler.get_scale() > 1)):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if scaler.is_enabled():
            scaler.update(scaler.get_scale() / 2)
        return total.new_tensor(float("nan")) if loss_finite else total
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return total


def _go_back(fitting: _Fit) -> None:
    """Return to the last good checkpoint."""
    fitting.safety.go_back(fitting.state, fitting.log)
    fitting.feed.close()
    fitting.feed = until_stopped(fitting.parts.batches.starting_at(fitting.state.progress.step), fitting.safety.stop)
    fitting.stage = -1


def _log_and_save(fitting: _Fit) -> None:
    """Log a row and save a checkpoint if due. Raises Stopped after a signal."""
    at, meter, stop = fitting.state.progress, fitting.state.meter, fitting.safety.stop
    evaluates = fitting.parts.loop.evaluates(at.step)
    # Also before each evaluation, so that a resumed run logs the same rows as an uninterrupted one.
    if evaluates or at.step % fitting.parts.loop.log_every == 0:
        fitting.log.train(meter.row(at.step, fitting.parts.optimizers), steps_done=meter.steps)
    ending, saving = fitting.safety.world.any(stop.signal is not None, stop.save or fitting.safety.due(at.step))
    if ending:
        raise Stopped(stop.signal or signal.SIGTERM)
    if saving and not evaluates and at.bad == 0:
        stop.save = False
        fitting.save("last", weights_of(fitting.parts), {}, fitting.state.state())


def _to_training(model: nn.Module) -> None:
    """Training mode, but evaluation mode for fully frozen modules, so that their running statistics stay."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _stands_still(at: Progress, loop: Loop) -> bool:
    return loop.patience is not None and at.stale >= loop.patience


def split(values: Any, n: int) -> list[Any]:
    """A batch (a tensor, or a list of one target per image) in exactly n parts of similar size."""
    size, more = divmod(len(values), n)
    ends = [size * (i + 1) + min(i + 1, more) for i in range(n)]
    return [values[first:end] for first, end in zip([0, *ends], ends, strict=False)]


def _shares(task: Task, batch: Any, accumulate: int, world: World) -> tuple[int, Sequence[Any]]:
    """The number of parts, equal on every process, and the factor on each part's loss such that they add up to the loss
    of the whole batch."""
    count = min(accumulate, len(batch.images))
    if world.size == 1 and count == 1:
        return 1, (1.0,)
    whole = task.amount(batch.targets)
    if world.size > 1:
        # Gradients are averaged over processes, so that each share counts `size` times.
        whole, count = world.totals(whole, count)
        whole = whole / world.size
        least = task.least / world.size
    else:
        least = task.least
    amounts = [task.amount(part).clamp(min=task.least) for part in split(batch.targets, count)]
    return count, [amount / whole.clamp(min=least) for amount in amounts]


def _norm(trained: list[nn.Parameter]) -> Tensor:
    return get_total_norm([p.grad for p in trained if p.grad is not None])
