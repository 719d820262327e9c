"""The small models that the bundled recipes train, where overhead rules: `benchmarks.model` at their geometry, with
patches by one matrix product. `--recipe` compares whole steps instead: ours as `train.py` takes it, with its stem,
Muon, clipping and moving average, and timm's under the optimizer that timm's factory makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import tyro

from benchmarks.contest import write
from benchmarks.model import Options, contest
from benchmarks.vits import Shape

SHAPES = {
    "digits, 16 patches": Shape.of("nano", 32, patch=8, classes=10),
    "scenes, 64 patches": Shape.of("nano", 128, patch=16, classes=10),
}


@dataclass(frozen=True)
class Small:
    options: tyro.conf.OmitArgPrefixes[Options] = field(default_factory=lambda: replace(Options(), batches=(1, 8, 64)))


def main(arguments: list[str]) -> None:
    o = tyro.cli(Small, args=arguments, prog="python -m benchmarks small").options
    write(o.json, {"options": asdict(o), "results": contest(SHAPES, o)})
