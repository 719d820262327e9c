"""Where the data files of the package lie."""

from pathlib import Path

_INSTALLED = Path(__file__).parent / "files"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[3] / "datasets"
"""In a wheel beside this file, in a clone the top-level folder of data."""
