"""Our detector against transformers' LW-DETR and DEIMv2 and torchvision's Faster R-CNN, from scratch on the same scenes.

First at equal images: everyone trains on the same images in the same order, a few steps each in turn in one process, so
that a slow moment of the machine hits all. Then at equal time: each rival trains anew for as many steps as fit into the
time that ours took, by the pace of the first race, with a learning-rate schedule of that length. Ours is the recipe
`scenes`; the rivals have AdamW, the better of two rates each, warm-up, cosine and, where their own training has them,
clipped gradients and a moving average of the weights (`benchmarks/race.py`).

    python -m benchmarks detection                  both races
    python -m benchmarks detection --tune 6400      each rival at both rates, on so many images
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tyro

from benchmarks.contest import write
from benchmarks.detectors import RATES
from benchmarks.race import Racer, judge, lay_track, ours, race, rival


@dataclass(frozen=True)
class Detection:
    images: int = 16_000
    """That everyone sees in the race at equal images."""
    test: int = 500
    """Test scenes that are judged on."""
    seed: int = 0
    rivals: tuple[str, ...] = ("lwdetr", "deimv2", "fasterrcnn")
    turn: int = 10
    """Steps of one before it is the next one's turn."""
    tune: int | None = None
    """Train each rival at each of `rates` on so many images instead, to choose its rate."""
    rates: tuple[float, ...] = (5e-4, 1e-3)
    json: str | None = None


def tune(o: Detection, images: int) -> dict[str, Any]:
    track = lay_track(images, o.test, o.seed)
    results = []
    for name in o.rivals:
        for rate in o.rates:
            racer = rival(name, track, track.steps, rate)
            race([racer], track.steps)
            results.append({"name": name, "rate": rate, **judge(racer, track)})
            print(told(name, results[-1]), f"at {rate:g}", flush=True)
    return {"tuned": results}


def both_races(o: Detection) -> dict[str, Any]:
    track = lay_track(o.images, o.test, o.seed)
    racers = [ours(track), *(rival(name, track, track.steps, RATES[name]) for name in o.rivals)]
    print(f"equal images: {track.steps} steps of {track.recipe.batch_size} each", flush=True)
    at_images = judged(racers, track, o.turn)
    budget = at_images["ours"]["seconds"]
    lengths = {name: round(track.steps * budget / at_images[name]["seconds"]) for name in o.rivals}
    print("equal time: " + ", ".join(f"{steps} steps of {name}" for name, steps in lengths.items()), flush=True)
    racers = [rival(name, track, steps, RATES[name]) for name, steps in lengths.items()]
    at_time = {"ours": at_images["ours"], **judged(racers, track, o.turn)}
    return {"rates": RATES, "equal images": at_images, "equal time": at_time}


def judged(racers: list[Racer], track: Any, turn: int) -> dict[str, dict[str, Any]]:
    race(racers, turn, lambda line: print(line, flush=True))
    results = {racer.name: judge(racer, track) for racer in racers}
    for name, result in results.items():
        print(told(name, result), flush=True)
    return results


def told(name: str, r: dict[str, Any]) -> str:
    skipped = f", {r['skipped']} steps skipped: no finite loss" if r["skipped"] else ""
    return f"{name:<10} {r['images']:,} images, {r['seconds']:.0f} s: mAP {r['map']:.3f}, mAP50 {r['map50']:.3f}{skipped}"


def table(result: dict[str, Any]) -> str:
    """Seconds as shares of ours: those are what one race compares."""
    images, time = result["equal images"], result["equal time"]
    lines = [
        "| detector | parameters | time, ours = 1 | mAP, mAP50 at equal images | images at equal time | mAP, mAP50 |",
        "|---|---|---|---|---|---|",
    ]
    for name, first in images.items():
        then = time[name]
        lines.append(
            f"| {name} | {first['parameters'] / 1e6:.1f} M | {first['seconds'] / images['ours']['seconds']:.2f} "
            f"| {first['map']:.3f}, {first['map50']:.3f} | {then['images']:,} | {then['map']:.3f}, {then['map50']:.3f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    o = tyro.cli(Detection, args=arguments, prog="python -m benchmarks detection")
    result = both_races(o) if o.tune is None else tune(o, o.tune)
    if o.tune is None:
        print("\n" + table(result))
    write(o.json, {"images": o.tune or o.images, "test": o.test, "seed": o.seed, **result})
