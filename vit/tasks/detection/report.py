"""The test report of a detector: files with plots, and a summary on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vit.report.confusion import confused_pairs, draw_confusion
from vit.report.files import write_json
from vit.report.plots import save
from vit.report.screen import HARDEST, LISTED_CLASSES, Summary, percent, print_summary
from vit.tasks.detection.pictures import Scene, draw_precision_recall, draw_predictions, draw_worst, scene_of
from vit.tasks.evaluation import Evaluation

BACKGROUND = "background"
SHOWN, WORST = 12, 12
"""Number of images in predictions.png and in mistakes.png."""
ENOUGH = 10
"""Minimum number of objects for a reliable threshold of a class."""


def write_report(folder: str | Path, evaluation: Evaluation) -> list[Path]:
    """Write report.json, precision_recall.png, confusion.png, predictions.png and mistakes.png; the paths."""
    result, metrics, index, images = evaluation.result, evaluation.metrics, evaluation.index, evaluation.images
    folder, classes, matched, threshold = Path(folder), metrics.classes, metrics.matched(), result["threshold"]

    def scene(i: int) -> Scene:
        pixels, file = images.image(index[i]), images.name(index[i])
        return scene_of(pixels, file, metrics.truths[i], metrics.found[i], matched[i], threshold)

    # Evenly spread, since sorted files may show one class in a row; without empty images.
    filled = [i for i, each in enumerate(matched) if len(each.truths) or (each.scores >= threshold).any()]
    choice = np.array(filled if len(filled) >= min(SHOWN, len(index)) else range(len(index)))
    shown = choice[np.linspace(0, len(choice) - 1, min(SHOWN, len(choice))).round().astype(int)].tolist()
    mistakes = np.array([each.mistakes(threshold) for each in matched])
    worst = [i for i in np.argsort(-mistakes, kind="stable")[:WORST].tolist() if mistakes[i]]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", result)
    for file, figure in (
        ("precision_recall.png", draw_precision_recall(result, classes)),
        (
            "confusion.png",
            draw_confusion(np.array(result["confusion"]), [*classes, BACKGROUND], f"\nat a score of {threshold:.2f}"),
        ),
        ("predictions.png", draw_predictions([scene(i) for i in shown], classes)),
        ("mistakes.png", draw_worst([scene(i) for i in worst], classes)),
    ):
        save(figure, folder / file)
    names = ("report.json", "precision_recall.png", "confusion.png", "predictions.png", "mistakes.png")
    return [folder / file for file in names]


def thresholds_to_keep(result: dict[str, Any]) -> dict[str, Any]:
    """The thresholds from validation that config.json stores for prediction."""
    by_class = {
        name: entry["threshold"]
        for name, entry in result["per_class"].items()
        if entry["threshold"] is not None and entry["objects"] >= ENOUGH
    }
    return {"threshold": result["best_threshold"], "class_thresholds": by_class}


def print_report(result: dict[str, Any]) -> None:
    """Print the metrics of an evaluation."""
    print_summary(summary_of(result))


def summary_of(result: dict[str, Any]) -> Summary:
    sizes = ("small", "medium", "large")
    figures = [
        ("mean AP", percent(result["map"])),
        ("AP50, AP75", f"{percent(result['map50'])}, {percent(result['map75'])}"),
        ("AP small/medium/large", ", ".join(percent(result[f"map_{size}"]) for size in sizes)),
        ("mean recall (AR100)", percent(result["ar100"])),
    ]
    if result["best_threshold"] is not None:
        figures.append(("best F1", f"{percent(result['best_f1'])}  (at a score of {result['best_threshold']:.3f})"))
    figures.append(
        (
            f"at a score of {result['threshold']:.3f}",
            f"precision {percent(result['precision'])}, recall {percent(result['recall'])}, F1 {percent(result['f1'])}",
        )
    )
    if result["nonfinite"]:
        figures.append(("NaN or infinite", f"{result['nonfinite']} predictions, left out"))
    if result.get("unreadable"):
        figures.append(("unreadable", f"{len(result['unreadable'])} images, not evaluated"))
    title = f"{result['split']}: {result['n']} images, {result['objects']} objects, {len(result['per_class'])} classes"
    if result.get("scan"):
        title += " (" + ", ".join(f"{key} {value}" for key, value in result["scan"].items()) + ")"
    return Summary(title, figures, *_class_rows(result), _confusions(result))


def _class_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    entries = list(result["per_class"].items())
    header = ["class", "objects", "AP", "AP50", "precision", "recall"]
    if len(entries) > LISTED_CLASSES:
        occurring = [(name, entry) for name, entry in entries if entry["ap"] is not None]
        entries = sorted(occurring, key=lambda item: (item[1]["ap"], item[0]))[:HARDEST]
        header[0] = f"hardest {len(entries)} classes"
    columns = ("ap", "ap50", "precision", "recall")
    return header, [[name, str(e["objects"]), *(percent(e[key]) for key in columns)] for name, e in entries]


def _confusions(result: dict[str, Any], limit: int = 5) -> list[str]:
    """The most frequent confusions between classes, without false positives on background and missed objects."""
    classes = list(result["per_class"])
    pairs = confused_pairs(np.array(result["confusion"])[:-1, :-1], classes, limit)
    return [f"confused: {pair.true} taken for {pair.predicted}, {pair.count} times" for pair in pairs if pair.count > 1]
