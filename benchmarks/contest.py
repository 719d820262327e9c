"""What all contests share: contestants that train epoch by epoch, and the record of where and with what it ran."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from torch import Tensor, nn

from vit.errors import UserError

T = TypeVar("T")


@dataclass
class Contestant:
    """A model under training. `seconds` counts data, forward, backward, optimizer, and what makes the weights that are
    judged; not the judging."""

    name: str
    model: nn.Module
    batches: Iterator[Any]
    step: Callable[[Any], object]
    """One update with a batch."""
    steps_per_epoch: int
    epochs: int
    test: Callable[[], Any]
    """A fresh pass over the test batches."""
    weights: Callable[[], dict[str, Tensor]] | None = None
    """What is evaluated, when it is not the model's own weights (a moving average)."""
    seconds: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, test top-1) after each epoch."""

    def epoch(self) -> None:
        self.model.train()
        begun = time.perf_counter()
        for _ in range(self.steps_per_epoch):
            self.step(next(self.batches))
        self.seconds += time.perf_counter() - begun

    def score(self) -> float:
        """Test top-1 of the weights as they are now; also noted in `curve`."""
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if self.weights is not None:
            begun = time.perf_counter()
            weights = self.weights()
            self.seconds += time.perf_counter() - begun
            self.model.load_state_dict(weights)
        self.model.eval()
        score = top1(self.model, self.test())
        self.model.load_state_dict(own)
        self.curve.append((self.seconds, score))
        return score

    def seconds_to(self, goal: float) -> float | None:
        return next((seconds for seconds, top1 in self.curve if top1 >= goal), None)


@torch.no_grad()
def top1(forward: Callable[[Tensor], Tensor], batches: Iterable[Any]) -> float:
    """Share of the images of which `forward` (images -> logits [B, K]) gives the right class the highest logit."""
    right = [forward(batch.images).float().argmax(1) == batch.targets for batch in batches]
    return float(torch.cat(right).float().mean())


def parsed(options: type[T], arguments: Sequence[str], name: str, told: str | None) -> T:
    """The options of `python -m benchmarks NAME`, whose --help tells what it does. Raises UserError where --json is no
    place for a file: before hours of measuring, not after."""
    o = tyro.cli(options, args=arguments, prog=f"python -m benchmarks {name}", description=told)
    file = getattr(o, "json", None)
    if file is not None:
        if Path(file).is_dir():
            raise UserError(f"--json {file} is a folder: name a file to write.")
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    return o


PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "vit-pytorch", "rfdetr", "albumentations", "numpy", "pillow",
    "simplejpeg",
)  # fmt: skip
"""Those of them that are installed are told with every result."""


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def write(file: str | None, result: dict[str, Any]) -> None:
    if file is not None:
        Path(file).write_text(json.dumps({"machine": machine(), **result}, indent=1))
