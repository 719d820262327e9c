"""The training loop and the evaluation loop, for any Task.

Nothing here knows a model. Randomness in a step is a pure function of (seed, step), the order of samples one of
(seed, epoch): a resumed run goes on as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from vit.meter import Meter
from vit.metrics import is_better
from vit.optim import Ema, let_learn, set_lr, warmup_cosine
from vit.resumable import Progress, Resumable
from vit.runlog import RunLog
from vit.statistics import with_statistics
from vit.tasks import Metrics, Task


class Batches(Iterable[Any], Sized, Protocol):
    """Batches with `.images` float32 [B, 3, H, W] and `.targets`; `len` is the number still to come."""


@dataclass(frozen=True)
class Loop:
    """How long and how to train. One step is one batch, taken in `accumulate` parts one after another: the same step
    but for batch norms, which look at a part each."""

    steps: int
    steps_per_epoch: int
    head_steps: int = 0
    """Steps at the start in which the head learns alone (LP-FT, Kumar et al. 2022, section 3.4)."""
    warmup: int = 0
    """Steps of linear warm-up, of the head alone and again of everything."""
    final_lr: float = 0.0
    accumulate: int = 1
    clip: float | None = None
    amp: torch.dtype | None = None
    seed: int = 0
    eval_every: int = 1
    """Epochs between evaluations; the last step is always followed by one."""
    patience: int | None = None
    """Evaluations without a new best after which training stops."""
    log_every: int = 10

    def rate(self, step: int) -> float:
        """Factor of the learning rate."""
        if step < self.head_steps:
            return warmup_cosine(step, self.head_steps, min(self.warmup, self.head_steps // 2), self.final_lr)
        return warmup_cosine(step - self.head_steps, self.steps - self.head_steps, self.warmup, self.final_lr)


Save = Callable[[str, dict[str, Tensor], dict[str, Any], dict[str, Any]], None]
"""Called with "last" or "best", the weights to keep, the validation numbers, and what resuming needs."""


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
) -> Progress:
    """Train until `loop.steps` or until validation stands still.

    `resume` is what `save` was last given; `batches` then begin at the step it stopped at. `watch` is shown the metrics
    of every evaluation and the epoch that it ends. `plain` are training images without augmentation: the statistics of
    batch norms are taken over them whenever weights are judged and kept.
    Raises UserError when the loss is no longer finite.
    """
    model, at = task.model, Progress()
    scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=loop.amp == torch.float16)
    run = Resumable(model, optimizers, scaler, ema, at)
    if resume is not None:
        run.load(resume)
    meter = Meter(loop.steps_per_epoch, saved=at.step if resume is not None else None)
    begin, feed = at.step, iter(batches)
    while at.step < loop.steps and not _stands_still(at, loop):
        if at.step in (begin, loop.head_steps):
            let_learn(optimizers, head_only=at.step < loop.head_steps)
            _to_training(model)
        set_lr(optimizers, loop.rate(at.step))
        batch = next(feed)
        # After `next`: starting workers draws from the same stream.
        torch.manual_seed(_step_seed(loop.seed, at.step))
        meter.add(train_step(task, batch, optimizers, loop, scaler), len(batch.images))
        if ema is not None:
            ema.update(model)
        at.step += 1
        evaluates = at.step == loop.steps or at.step % (loop.eval_every * loop.steps_per_epoch) == 0
        # A row before each checkpoint too: none with a loss that is not finite is kept, and a resumed run's rows
        # are the uninterrupted run's.
        if evaluates or at.step % loop.log_every == 0:
            log.train(meter.row(at.step, optimizers), steps_done=meter.steps)
        if not evaluates:
            continue
        weights = ema.state if ema is not None else model.state_dict()
        if plain is not None:
            with _autocast(next(model.parameters()).device, loop.amp):
                weights = with_statistics(model, weights, plain())
        metrics = _validate(task, validation, weights, loop.amp) if validation is not None else None
        numbers = _numbers(metrics)
        if metrics is not None and watch is not None:
            watch(metrics, math.ceil(at.step / loop.steps_per_epoch))
        value = numbers.get(task.score)
        keeps = _keeps(value, at.best, task.uncertainty(numbers))
        at.best_step = at.step if keeps else at.best_step
        if is_better(value, at.best):
            at.best, at.stale = value, 0
        elif validation is not None and at.step > loop.head_steps:
            at.stale += 1
        if numbers:
            epoch = at.step / loop.steps_per_epoch
            log.val(
                {"step": at.step, "epoch": epoch, **numbers}, _val_line(at, loop, numbers, meter, task.score, keeps)
            )
        # The best first: a crash between the two leaves a "last" that finds it again.
        if keeps or validation is None:
            save("best", weights, numbers, {})
        save("last", weights, numbers, run.state())
        meter.saved(at.step)
    if _stands_still(at, loop):
        log.say(f"early stop: {task.score} has not improved for {at.stale} evaluations")
    return at


def train_step(
    task: Task, batch: Any, optimizers: list[Optimizer], loop: Loop, scaler: torch.amp.GradScaler | None = None
) -> Tensor:
    """One update of the weights; the loss, still on the device."""
    device, total = batch.images.device, torch.zeros((), device=batch.images.device)
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    images, targets = _parts(batch.images, loop.accumulate), _parts(batch.targets, loop.accumulate)
    for part, wanted in zip(images, targets, strict=True):
        with _autocast(device, loop.amp):
            terms = task.losses(part, wanted)
        share = 1.0 if len(images) == 1 else task.divisor(wanted) / task.divisor(batch.targets)
        loss = torch.stack(list(terms.values())).sum() * share
        scaler.scale(loss).backward()
        total += loss.detach()
    # One whose parameters all wait has nothing to scale, which the scaler takes for a mistake.
    optimizers = [o for o in optimizers if any(p.grad is not None for g in o.param_groups for p in g["params"])]
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    if loop.clip is not None:
        clip_grad_norm_([p for p in task.model.parameters() if p.requires_grad], loop.clip)
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return total


@torch.inference_mode()
def evaluate(task: Task, batches: Iterable[Any], amp: torch.dtype | None = None) -> Metrics:
    """Metrics of the model over all batches. The model is in its former mode afterwards."""
    metrics, modes = task.metrics(), {module: module.training for module in task.model.modules()}
    device = next(task.model.parameters()).device
    task.model.eval()
    with _autocast(device, amp):
        for batch in batches:
            metrics.update(task.predict(batch.images), batch.targets)
    for module, training in modes.items():
        module.training = training
    return metrics


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
    task: Task, validation: Callable[[], Iterable[Any]], weights: dict[str, Tensor], amp: torch.dtype | None
) -> Metrics:
    """Metrics of `weights` on the validation data; the model's own weights are back in place afterwards."""
    model = task.model
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        return evaluate(task, validation(), amp)
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


def _parts(values: Any, n: int) -> list[Any]:
    """A batch (a tensor, or a list of one target an image) in at most n parts of like size."""
    size = math.ceil(len(values) / n)
    return [values[first : first + size] for first in range(0, len(values), size)]


def _autocast(device: torch.device, amp: torch.dtype | None) -> AbstractContextManager:
    return torch.autocast(device.type, dtype=amp) if amp is not None else nullcontext()


def _step_seed(seed: int, step: int) -> int:
    """One stream of random numbers a step (dropout, drop path), so that nothing must be restored on resume."""
    return (seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF_FFFF
