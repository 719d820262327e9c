"""A random input size for each step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vit.data.load.sampling import derive_seed
from vit.errors import UserError

_STREAM = 0x51DE  # separates these numbers from the order of an epoch, which comes from (seed, epoch)


@dataclass(frozen=True)
class MultiScale:
    """Sizes from 1 - spread to 1 + spread of `size` (H, W), equally likely, with sides that are multiples of `divisor`
    in nearly the same ratio. The size of a step is a pure function of (seed, step): a resumed run continues with the
    sizes of the uninterrupted one, on any number of processes."""

    size: tuple[int, int]
    divisor: int
    spread: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.spread < 1:
            raise UserError(f"--multi-scale is a share of the image size between 0 and 1, not {self.spread}.")
        if len(self.sizes) == 1:
            least = self.divisor / max(self.size)
            raise UserError(
                f"--multi-scale {self.spread} leaves one size of {self.size[1]}x{self.size[0]} pixels in steps of "
                f"{self.divisor}. The least that changes it is {least:.2f}; a larger --image-size takes less."
            )

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        longer = max(self.size)
        low, high = longer * (1 - self.spread), longer * (1 + self.spread)
        steps = range(max(1, -int(-low // self.divisor)), int(high / self.divisor) + 1)
        return [self._scaled(k * self.divisor / longer) for k in steps]

    def _scaled(self, factor: float) -> tuple[int, int]:
        height, width = (max(1, round(side * factor / self.divisor)) * self.divisor for side in self.size)
        return height, width

    def at(self, step: int) -> tuple[int, int]:
        """(H, W) at a step of the run, counted from 0."""
        return self.sizes[derive_seed(self.seed, step, _STREAM) % len(self.sizes)]
