"""The test report of a detector on the screen."""

from __future__ import annotations

from typing import Any

# More classes than this are not listed one by one: only the hardest are.
LISTED = 20


def print_detection(result: dict[str, Any]) -> None:
    """What `DetectionMetrics.compute` gives, with `split`, in a few lines."""
    lines = [f"{result['split']}: {result['n']} images, {result['objects']} objects"]
    names = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "ar100")
    lines.append("  ".join(f"{name} {shown_figure(result[name])}" for name in names))
    if result["best_threshold"] is not None:
        lines.append(f"best F1 {shown_figure(result['best_f1'])} at a score of {result['best_threshold']:.3f}")
    classes = [(entry["ap"], name, entry) for name, entry in result["per_class"].items() if entry["ap"] is not None]
    classes.sort(key=lambda row: row[0])
    if len(classes) > LISTED:
        lines.append(f"the hardest {LISTED} of {len(classes)} classes:")
    for _, name, entry in classes[:LISTED]:
        figures = f"AP {shown_figure(entry['ap'])}  AP50 {shown_figure(entry['ap50'])}"
        lines.append(f"  {name:20} {figures}  {entry['objects']:>6} objects")
    if result["nonfinite"]:
        lines.append(f"Warning: {result['nonfinite']} predictions were NaN or infinite and were left out.")
    if result.get("unreadable"):
        lines.append(f"Warning: {len(result['unreadable'])} images could not be read; they are not in the figures.")
    print("\n".join(lines), flush=True)


def shown_figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1%}"
