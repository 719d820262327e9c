"""Forward and training step of plain ViTs: ours, timm, transformers, torchvision and vit-pytorch, in turn.

A training step is forward, cross-entropy, backward and torch's fused AdamW, the same for everyone. Shares of the peak
are of the largest rate of a matrix product measured in the same rounds, in the precision of the contestant.

FLOPs of a training step are three times those of the forward pass: 3 * B * (depth * (2 N (4 D^2 + 2 D M) + 4 N^2 D) +
2 P 3 p^2 D + 2 D K) with N tokens, P patches, width D, M hidden units, patch side p, K classes; model FLOPs
utilisation (MFU) is that over time and peak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.contest import parsed, write
from benchmarks.turns import CLOCK, Clock, Turns, matrix_peak, peak_memory, table, take_turns
from benchmarks.vits import MODELS, Shape
from vit.errors import UserError

Step = Callable[[], object]


@dataclass(frozen=True)
class Contest:
    """What is compared, whatever the shape."""

    batches: tuple[int, ...] = (1, 8, 0)
    """0: the largest with which everyone's training step fits into --memory-gb."""
    work: tuple[Literal["forward", "training"], ...] = ("forward", "training")
    models: tuple[Literal["ours", "timm", "transformers", "torchvision", "vit-pytorch"], ...] = (
        "ours", "timm", "transformers", "torchvision", "vit-pytorch",
    )  # fmt: skip
    modes: tuple[Literal["eager", "compiled"], ...] = ("eager",)
    amp: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)
    """bf16: autocast. All combinations of models, modes and precisions run in turn."""
    memory_gb: float = 6.0
    rounds: int = 7
    clock: Clock = CLOCK
    json: str | None = None

    def __post_init__(self) -> None:
        if "ours" not in self.models:
            raise UserError("--models needs ours, which the others are compared with.")


@dataclass(frozen=True)
class Options(Contest):
    sizes: tuple[Literal["ti", "s", "b", "l"], ...] = ("ti", "s", "b")
    sides: tuple[int, ...] = (224, 384)
    """Of square images; patches of 16."""


@dataclass(frozen=True)
class Entry:
    """A model as it is run."""

    library: str
    mode: str
    amp: str

    @property
    def name(self) -> str:
        return self.library + "".join(f", {x}" for x in (self.mode, self.amp) if x not in ("eager", "fp32"))


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def forward(model: nn.Module, images: Tensor, amp: str) -> Step:
    @torch.no_grad()
    def run() -> Tensor:
        model.eval()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp == "bf16"):
            return model(images)

    return run


def training(model: nn.Module, images: Tensor, targets: Tensor, amp: str, optimizer: Any = None) -> Step:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def run() -> None:
        model.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp == "bf16"):
            loss = F.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def batch_of(shape: Shape, n: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(n, 3, shape.side, shape.side, device=device())
    return images, torch.randint(0, shape.classes, (n,), device=device())


def make(shape: Shape, entry: Entry) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[entry.library](shape).to(device())
    if entry.mode == "compiled":
        model.compile()
    return model


def largest(shape: Shape, libraries: tuple[str, ...], budget: float) -> int:
    """The batch with which the hungriest training step takes `budget` bytes, from what 2 and 4 images take."""
    least = 1 << 30
    for library in libraries:
        model = make(shape, Entry(library, "eager", "fp32"))
        taken = []
        for n in (2, 4):
            step = training(model, *batch_of(shape, n), "fp32")
            step()
            taken.append(peak_memory(step) or 0)
        each = max(1.0, (taken[1] - taken[0]) / 2)
        least = min(least, int((budget - taken[0]) / each + 2))
    return max(1, least)


def compare(shape: Shape, n: int, work: str, entries: list[Entry], rounds: int, clock: Clock) -> dict[str, Any]:
    """One table: seconds of each entry, ratios to ours in the same rounds, share of the peak, peak memory."""
    torch.compiler.reset()  # code that has seen another shape is compiled for shapes that vary, and is slower
    images, targets = batch_of(shape, n)
    runs: dict[str, Step] = {}
    for entry in entries:
        model = make(shape, entry)
        same = (model, images, entry.amp) if work == "forward" else (model, images, targets, entry.amp)
        runs[entry.name] = forward(*same) if work == "forward" else training(*same)  # pyright: ignore
    peaks = {amp: matrix_peak(torch.bfloat16 if amp == "bf16" else torch.float32) for amp in {e.amp for e in entries}}
    turns = take_turns({**runs, **{f"peak {amp}": run for amp, (run, _) in peaks.items()}}, rounds, clock=clock)
    memory = {name: peak_memory(run) for name, run in runs.items()}
    flops = shape.flops() * n * (1 if work == "forward" else 3)
    share = {e.name: flops / turns[e.name].median / (peaks[e.amp][1] / turns[f"peak {e.amp}"].median) for e in entries}
    return {"turns": turns, "memory": memory, "share": share, "flops": flops}


def lines(result: dict[str, Any], entries: list[Entry], n: int) -> str:
    turns: Turns = result["turns"]
    mine, best = verdict(turns, entries)
    first = reference(entries)
    rows = []
    for entry in entries:
        name, memory = entry.name, result["memory"][entry.name]
        rows.append(
            [
                name,
                f"{1e3 * turns[name].median / n:.2f}",
                turns.ratio(name, first).told(),
                f"{result['share'][name]:.0%}",
                "" if memory is None else f"{memory / 2**20:,.0f}",
            ]
        )
    told = table(["model", "ms an image", f"time / {first}", "of peak", "MiB"], rows)
    if best is None:
        return told
    return f"{told}\n\n{mine} against the fastest peer's eager, {best}: {turns.ratio(best, mine).told()} times as fast"


def reference(entries: list[Entry]) -> str:
    """The first of ours: eager in fp32, if it is among them."""
    return next(e.name for e in entries if e.library == "ours")


def verdict(turns: Turns, entries: list[Entry]) -> tuple[str, str | None]:
    """Our fastest entry, and the peers' fastest eager one in fp32, if there is any."""
    plain = [e.name for e in entries if e.library != "ours" and (e.mode, e.amp) == ("eager", "fp32")]
    return turns.fastest([e.name for e in entries if e.library == "ours"]), turns.fastest(plain) if plain else None


def contest(shapes: dict[str, Shape], o: Contest) -> list[dict[str, Any]]:
    """Every shape, batch and kind of work; prints a table each. For JSON."""
    entries = [Entry(library, mode, amp) for mode in o.modes for amp in o.amp for library in o.models]
    results = []
    for name, shape in shapes.items():
        for asked in o.batches:
            n = asked or largest(shape, o.models, o.memory_gb * 1e9)
            for work in o.work:
                result = compare(shape, n, work, entries, o.rounds, o.clock)
                print(f"\n### {name}, batch {n}, {work}\n\n{lines(result, entries, n)}", flush=True)
                turns: Turns = result["turns"]
                first = reference(entries)
                ratios = {e.name: turns.ratio(e.name, first)._asdict() for e in entries}
                results.append(
                    {"shape": name, "batch": n, "work": work, **result, "turns": turns.to_dict(), "ratios": ratios}
                )
    return results


def main(arguments: list[str]) -> None:
    o = parsed(Options, arguments, "model", __doc__)
    shapes = {f"vit_{size}16 at {side}": Shape.of(size, side) for size in o.sizes for side in o.sides}
    print(__doc__)
    write(o.json, {"options": asdict(o), "results": contest(shapes, o)})
