"""The small models that the bundled recipes train, where overhead rules: what `python -m benchmarks model` compares, at
their geometry (width 128, 4 blocks), with patches by one matrix product.

A training step is forward, cross-entropy, backward and torch's fused AdamW, the same for everyone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from benchmarks.contest import parsed, write
from benchmarks.model import Contest, contest
from benchmarks.vits import Shape

SHAPES = {
    "digits, 16 patches": Shape.of("nano", 32, patch=8, classes=10),
    "scenes, 64 patches": Shape.of("nano", 128, patch=16, classes=10),
}


@dataclass(frozen=True)
class Small(Contest):
    batches: tuple[int, ...] = (1, 8, 64)
    """0: the largest with which everyone's training step fits into --memory-gb."""


def main(arguments: list[str]) -> None:
    o = parsed(Small, arguments, "small", __doc__)
    write(o.json, {"options": asdict(o), "results": contest(SHAPES, o)})
