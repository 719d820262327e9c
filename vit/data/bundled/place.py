"""The folder of the package's data files."""

from pathlib import Path

_INSTALLED = Path(__file__).parent / "files"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[3] / "datasets"
"""In a wheel, next to this file; in a clone, the top-level folder datasets/."""
