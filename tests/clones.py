"""A copy of the repository, as a clone has it."""

from pathlib import Path
from shutil import copy2, copytree, ignore_patterns

ROOT = Path(__file__).parent.parent
MADE = ("runs", "build", "dist")


def clone(place: Path) -> Path:
    """Every file of the repository into the new folder `place`, without what commands leave behind."""
    place.mkdir(parents=True)
    for entry in ROOT.iterdir():
        if entry.name.startswith(".") or entry.name in MADE or entry.suffix == ".egg-info":
            continue
        if entry.is_dir():
            copytree(entry, place / entry.name, ignore=ignore_patterns("__pycache__"))
        else:
            copy2(entry, place)
    return place
