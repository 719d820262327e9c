"""The report of a classifier: report.json, plots, and a summary on the screen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vit.report.confusion import confused_pairs, draw_confusion
from vit.report.files import write_json
from vit.report.plots import Tile, draw_mistakes, save
from vit.report.screen import HARDEST, LISTED_CLASSES, Summary, print_summary, summary_lines
from vit.report.screen import percent as _percent
from vit.tasks.classification.calibration import Outputs
from vit.tasks.evaluation import Evaluation

if TYPE_CHECKING:
    from rich.console import Console

CONFUSIONS = 5


def write_report(folder: str | Path, evaluation: Evaluation) -> list[Path]:
    """Write report.json, and for single-label results confusion.png and mistakes.png; the paths."""
    result, metrics, images = evaluation.result, evaluation.metrics, evaluation.images
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "report.json"]
    write_json(written[0], result)
    if metrics.multilabel or not evaluation.index:
        return written
    classes = metrics.classes
    mistakes = worst_mistakes(metrics.outputs(evaluation.index), temperature=result.get("temperature"))
    tiles = [
        Tile(images.image(m.index), classes[m.true], classes[m.predicted], m.score, images.name(m.index))
        for m in mistakes
    ]
    for file, figure in (
        ("confusion.png", draw_confusion(np.array(result["confusion"]), classes)),
        ("mistakes.png", draw_mistakes(tiles)),
    ):
        save(figure, folder / file)
        written.append(folder / file)
    return written


@dataclass(frozen=True)
class Mistake:
    index: int
    """Position in the split."""
    true: int
    predicted: int
    score: float
    """Probability of the predicted class."""


def worst_mistakes(outputs: Outputs, limit: int = 24, temperature: float | None = None) -> list[Mistake]:
    """The wrong predictions with the highest confidence, worst first. Empty for multi-label."""
    if outputs.multilabel:
        return []
    finite = outputs.logits.isfinite().all(1)
    best = (outputs.logits / (temperature or 1.0)).softmax(1).max(1)
    wrong = (best.indices != outputs.targets) & finite
    order = torch.where(wrong, best.values, -1.0).argsort(descending=True, stable=True)[: int(wrong.sum())]
    return [
        Mistake(int(outputs.index[i]), int(outputs.targets[i]), int(best.indices[i]), float(best.values[i]))
        for i in order[:limit].tolist()
    ]


def print_report(result: dict[str, Any], console: Console | None = None) -> None:
    """Print the metrics, then a line per class (the hardest if there are many)."""
    print_summary(_summary(result), console)


def report_lines(result: dict[str, Any]) -> list[str]:
    """The report as plain text, one metric per line."""
    return summary_lines(_summary(result))


def _summary(result: dict[str, Any]) -> Summary:
    header, rows = _class_rows(result)
    return Summary(_title(result), _figures(result), header, rows, _confusions(result))


def _title(result: dict[str, Any]) -> str:
    return f"{result.get('split', 'test')}: {result['n']} images, {len(result['per_class'])} classes"


def _figures(result: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, value) in the order of interest; metrics that were not computed are left out."""
    rows: list[tuple[str, str]] = []
    if "map" in result:
        rows += [("mean AP", _percent(result["map"])), ("micro F1", _percent(result["micro_f1"]))]
        rows += [("macro F1", _percent(result["macro_f1"])), ("every label right", _percent(result["exact"]))]
    else:
        interval = result["top1_ci95"]
        between = f"  (95 % interval {_percent(interval[0])} to {_percent(interval[1])})" if interval else ""
        rows.append(("top-1", _percent(result["top1"]) + between))
        if len(result["per_class"]) > 5:
            rows.append(("top-5", _percent(result["top5"])))
        rows.append(("macro F1", _percent(result["macro_f1"])))
    calibrated = ""
    if result.get("ece_calibrated") is not None:
        calibrated = f"  ({_percent(result['ece_calibrated'])} at temperature {result['temperature']:.3g})"
    rows.append(("calibration error", _percent(result["ece"]) + calibrated))
    if result.get("loss") is not None:
        rows.append(("loss", f"{result['loss']:.4f}"))
    for key, title in (("tta", "with views averaged"), ("knn", "k nearest neighbors")):
        if result.get(key):
            extra = result[key]
            value = extra["map"] if extra.get("top1") is None else extra["top1"]
            suffix = f"  (k = {extra['k']}, {extra['memory']} in memory)" if key == "knn" else ""
            rows.append((title, _percent(value) + suffix))
    if result.get("nonfinite"):
        rows.append(("NaN or infinite", f"{result['nonfinite']} images, counted as wrong"))
    if result.get("unreadable"):
        rows.append(("unreadable", f"{len(result['unreadable'])} images, not evaluated"))
    return rows


def _class_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    entries = list(result["per_class"].items())
    header = ["class", "n", "precision", "recall", "F1"]
    if len(entries) > LISTED_CLASSES:
        occurring = [(name, entry) for name, entry in entries if entry["n"]]
        entries = sorted(occurring, key=lambda item: (item[1]["f1"] or 0.0, item[0]))[:HARDEST]
        header[0] = f"hardest {len(entries)} classes"
    return header, [
        [name, str(e["n"]), _percent(e["precision"]), _percent(e["recall"]), _percent(e["f1"])] for name, e in entries
    ]


def _confusions(result: dict[str, Any]) -> list[str]:
    if not result.get("confusion"):
        return []
    pairs = confused_pairs(np.array(result["confusion"]), list(result["per_class"]), CONFUSIONS)
    return [f"confused: {pair.true} taken for {pair.predicted}, {pair.count} times" for pair in pairs if pair.count > 1]
