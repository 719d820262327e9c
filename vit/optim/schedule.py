"""How long and how to train: the settled numbers of a run, and its learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vit.optim.optimizers import warmup_cosine


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

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows the first `step` steps."""
        return step > 0 and (step == self.steps or step % (self.eval_every * self.steps_per_epoch) == 0)

    def step_seed(self, step: int, rank: int = 0) -> int:
        """One stream of random numbers a step and process (dropout, drop path), so that nothing must be restored on
        resume."""
        return (self.seed * 1_000_003 + step + rank * 0x9E37_79B9_7F4A_7C15) & 0x7FFF_FFFF_FFFF_FFFF
