"""RF-DETR-nano: latency of inference and a training step, ours against the `rfdetr` package and transformers.

All have the same random weights; before anything is timed, our answers are compared with each peer's, and a difference
ends the run. A training step is forward, each code base's own loss of the same kind (13 groups of 300 queries, two
decoder layers and the selection), backward and torch's fused AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.contest import parsed, write
from benchmarks.rfdetr_peers import PEERS, SIDE, Contestant, ours
from benchmarks.turns import CLOCK, Clock, Turns, table, take_turns
from vit.errors import UserError

OBJECTS = 7
"""In each image of the training step."""


@dataclass(frozen=True)
class Options:
    peers: tuple[Literal["rfdetr", "transformers"], ...] = ("rfdetr", "transformers")
    batches: tuple[int, ...] = (1, 8)
    """Of inference."""
    training_batch: int = 2
    """0: no training step."""
    modes: tuple[Literal["eager", "compiled"], ...] = ("eager",)
    """Of ours and of the peers, as far as they compile."""
    amp: tuple[Literal["fp32", "bf16"], ...] = ("fp32",)
    rounds: int = 7
    clock: Clock = CLOCK
    json: str | None = None

    def __post_init__(self) -> None:
        if not self.peers:
            raise UserError("--peers needs one at least, whose weights ours takes.")


def difference(a: Contestant, b: Contestant, images: Tensor) -> tuple[float, float]:
    """The largest between the logits, and between the boxes (shares of the image)."""
    for c in (a, b):
        c.model.eval()
    with torch.no_grad():
        pairs = zip(a.answer(images), b.answer(images), strict=True)
        logits, boxes = (float((x - y).abs().max()) for x, y in pairs)
    return logits, boxes


def check_equal(name: str, mine: Contestant, theirs: Contestant) -> tuple[float, float]:
    """Raises UserError unless both give the same answers."""
    torch.manual_seed(0)
    found = difference(mine, theirs, torch.randn(2, 3, SIDE, SIDE))
    if not (found[0] < 1e-3 and found[1] < 1e-4):
        raise UserError(f"ours and {name} differ by {found[0]:.1e} in logits and {found[1]:.1e} in boxes.")
    return found


def inference(c: Contestant, images: Tensor, amp: str) -> Callable[[], object]:
    @torch.no_grad()
    def run() -> object:
        c.model.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
            return c.answer(images)

    return run


def training(c: Contestant, images: Tensor, amp: str) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(c.model.parameters(), lr=1e-5, fused=True)
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in images:
        center, size = torch.rand(2, OBJECTS, 2, generator=generator)
        boxes = torch.cat([0.2 + 0.6 * center, 0.05 + 0.3 * size], dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(0, 90, (OBJECTS,), generator=generator)})

    def run() -> None:
        c.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp == "bf16"):
            loss = c.loss(images, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(c.model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()

    return run


def contestants(peers: tuple[str, ...]) -> dict[str, Contestant]:
    """Ours first, with the weights of the first peer; each peer's answers have been compared with ours."""
    made: dict[str, Contestant] = {}
    for name in peers:
        make, eps = PEERS[name]
        torch.manual_seed(0)
        peer = make()
        mine = ours(peer.model, eps)
        logits, boxes = check_equal(name, mine, peer)
        print(f"ours and {name}: largest difference {logits:.1e} in logits, {boxes:.1e} in boxes", flush=True)
        made = made or {"ours": mine}
        made[name] = peer
    return made


def main(arguments: list[str]) -> None:
    o = parsed(Options, arguments, "detect", __doc__)
    results: dict[str, Any] = {}
    images = {n: torch.randn(n, 3, SIDE, SIDE) for n in {*o.batches, o.training_batch} - {0}}
    for mode in o.modes:
        made = contestants(o.peers)  # what has been compiled stays so
        if mode == "compiled":
            for c in made.values():
                c.model.compile()
        work = [("latency", n) for n in o.batches] + [("training", o.training_batch)] * (o.training_batch > 0)
        for what, n in work:
            how = inference if what == "latency" else training
            runs = {
                name + (", bf16" if amp == "bf16" else ""): how(c, images[n], amp)
                for amp in o.amp
                for name, c in made.items()
            }
            turns = take_turns(runs, o.rounds, clock=o.clock)
            title = f"{what}, batch {n}, {mode}"
            print(f"\n### {title}\n\n{lines(turns, n)}", flush=True)
            first = next(iter(runs))
            ratios = {name: turns.ratio(name, first)._asdict() for name in runs}
            results[title] = {"turns": turns.to_dict(), "ratios": ratios}
    write(o.json, {"options": asdict(o), "results": results})


def lines(turns: Turns, n: int) -> str:
    first = next(iter(turns.seconds))  # ours, in the first precision
    rows = [[name, f"{1e3 * turns[name].median / n:.1f}", turns.ratio(name, first).told()] for name in turns.seconds]
    return table(["model", "ms an image", f"time / {first}"], rows)
