"""report.json, and a line on the screen."""

from pathlib import Path

from vit.report.files import write_json


def write_report(folder, evaluation):
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder) / "report.json", evaluation.result)
    return [Path(folder) / "report.json"]


def print_report(result):
    print(f"{result['split']}: {result['n']} images, mean absolute error {result['mae']:.3f}, r2 {result['r2']:.3f}")
