"""--minutes: the length of a run that fits into a time, by the speed of this machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vit.tasks.classification.settle import Settled

FORWARD = 1 / 2
"""An image that is evaluated takes about this share of the time of one that is trained on: it is decoded as that is,
and goes forward, without the backward pass, which takes twice as long."""
REST = 15.0
"""Seconds for what is not counted by images: reading back the best checkpoint, the report and its pictures."""


def fitting_epochs(
    minutes: float,
    most: int,
    settled: Callable[[int], Settled],
    *,
    step_seconds: float,
    steps_per_epoch: int,
    evaluated: int,
    reported: int,
) -> int:
    """The most epochs, from 1 to `most`, of which a run with its evaluations ends within so many minutes.

    settled: the recipe for a number of epochs. evaluated: images that go forward in each evaluation; reported: those of
    the report at the end.
    """

    def fits(epochs: int) -> bool:
        recipe = settled(epochs)
        forward = math.ceil(epochs / recipe.eval_every) * evaluated + reported
        steps = epochs * steps_per_epoch + FORWARD * forward / recipe.batch_size
        return steps * step_seconds + REST <= 60 * minutes

    least = 1 + (settled(most).head_epochs or 0)
    return next((epochs for epochs in range(most, least, -1) if fits(epochs)), least)
