"""Mixup and CutMix of whole batches (arXiv:1710.09412, arXiv:1905.04899)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torchvision.transforms import v2

from vit.errors import UserError


@dataclass(frozen=True)
class Mix:
    """(images float [B, 3, H, W], targets int64 [B] or float [B, K], seed) -> (images, targets float [B, K]).

    classes: K. mixup, cutmix: alpha of the Beta distribution of the mixing ratio, 0 for off.
    switch: probability of CutMix if both are on. p: probability that a batch is mixed; the targets are float [B, K]
    in any case. A pure function of its arguments: torch's random state is neither read nor changed.
    """

    classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    p: float = 1.0

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0:
            raise UserError(f"--mixup and --cutmix are 0 or above, not {self.mixup} and {self.cutmix}.")
        for name in ("switch", "p"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"mix.{name} is a probability in 0..1, not {getattr(self, name)}.")

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        if targets.ndim == 1:
            targets = torch.nn.functional.one_hot(targets, self.classes).to(images.dtype)
        draw = random.Random(seed)
        mixed, by_area = draw.random() < self.p, draw.random() < self.switch
        if not mixed or not (self.mixup or self.cutmix):
            return images, targets
        transform = v2.CutMix if self.cutmix and (by_area or not self.mixup) else v2.MixUp
        alpha = self.cutmix if transform is v2.CutMix else self.mixup
        # Both draw from the CPU's generator only. torch.manual_seed would also reseed CUDA's, which
        # fork_rng(devices=[]) does not restore.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return transform(alpha=alpha)(images, targets)
