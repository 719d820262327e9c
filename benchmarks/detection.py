"""Our detector against transformers' LW-DETR and DEIMv2 and torchvision's Faster R-CNN, all new, on the same scenes.

First at equal images: everyone trains on the same images in the same order, a few steps each in turn in one process, so
that a slow moment of the machine hits all. Then at equal time: everyone trains anew, the rivals for as many steps as
fit into the time that ours needs for its images, by the pace of the first race, with schedules of that length. Ours is
the recipe `scenes`; the rivals have AdamW, at rates chosen by `--tune`, warm-up, cosine and, where their own training
has them, clipped gradients and a moving average of the weights (`benchmarks/race.py`).

    python -m benchmarks detection                  both races
    python -m benchmarks detection --tune 3200      each rival at both rates, on so many images
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.contest import parsed, write
from benchmarks.detectors import RATES
from benchmarks.race import Racer, judge, lay_track, ours, race, rival


@dataclass(frozen=True)
class Detection:
    images: int = 4_800
    """That everyone sees in the race at equal images."""
    time_images: int = 9_600
    """The race at equal time takes as long as ours needs for so many images; 0: no such race."""
    test: int = 500
    """Test scenes that are judged on."""
    seed: int = 0
    rivals: tuple[Literal["lwdetr", "deimv2", "fasterrcnn"], ...] = ("lwdetr", "deimv2", "fasterrcnn")
    amp: Literal["none", "bf16"] = "none"
    """Mixed precision, for everyone."""
    turn: int = 10
    """Steps of one before it is the next one's turn."""
    tune: int | None = None
    """Train each rival at each of `rates` on so many images instead, to choose its rate."""
    rates: tuple[float, ...] = (5e-4, 1e-3)
    json: str | None = None


def tune(o: Detection, images: int) -> dict[str, Any]:
    track = lay_track(images, o.test, o.seed, o.amp)
    results = []
    for name in o.rivals:
        for rate in o.rates:
            racer = rival(name, track, track.steps, rate)
            race([racer], track.steps)
            results.append({"name": name, "rate": rate, **judge(racer, track)})
            print(told(name, results[-1]), f"at {rate:g}", flush=True)
    return {"tuned": results}


def both_races(o: Detection) -> dict[str, Any]:
    track = lay_track(o.images, o.test, o.seed, o.amp)
    racers = [ours(track), *(rival(name, track, track.steps, RATES[name]) for name in o.rivals)]
    print(f"equal images: {track.steps} steps of {track.recipe.batch_size} images each", flush=True)
    result = {"rates": RATES, "equal images": judged(racers, track, o.turn)}
    if o.time_images:
        track = lay_track(o.time_images, o.test, o.seed, o.amp)
        seconds = {name: run["seconds"] for name, run in result["equal images"].items()}
        steps = {name: max(1, round(track.steps * seconds["ours"] / seconds[name])) for name in o.rivals}
        racers = [ours(track), *(rival(name, track, steps[name], RATES[name]) for name in o.rivals)]
        print("equal time: " + ", ".join(f"{racer.steps} steps of {racer.name}" for racer in racers), flush=True)
        result["equal time"] = judged(racers, track, o.turn)
    return result


def judged(racers: list[Racer], track: Any, turn: int) -> dict[str, dict[str, Any]]:
    race(racers, turn, lambda line: print(line, flush=True))
    results = {racer.name: judge(racer, track) for racer in racers}
    for name, result in results.items():
        print(told(name, result), flush=True)
    return results


def told(name: str, r: dict[str, Any]) -> str:
    skipped = f", {r['skipped']} steps skipped: no finite loss" if r["skipped"] else ""
    return (
        f"{name:<10} {r['images']:,} images, {r['seconds']:.0f} s: mAP {r['map']:.3f}, mAP50 {r['map50']:.3f}{skipped}"
    )


def table(race: dict[str, dict[str, Any]]) -> str:
    """Seconds as shares of ours: only those of one race can be compared."""
    lines = ["| detector | parameters | images | time, ours = 1 | mAP | mAP50 |", "|---|---|---|---|---|---|"]
    for name, r in race.items():
        share = r["seconds"] / race["ours"]["seconds"]
        size = f"{r['parameters'] / 1e6:.1f} M"
        lines.append(f"| {name} | {size} | {r['images']:,} | {share:.2f} | {r['map']:.3f} | {r['map50']:.3f} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    o = parsed(Detection, arguments, "detection", __doc__)
    result = both_races(o) if o.tune is None else tune(o, o.tune)
    for title in ("equal images", "equal time"):
        if title in result:
            print(f"\n{title}\n\n{table(result[title])}")
    write(o.json, {"test": o.test, "seed": o.seed, "amp": o.amp, **result})
