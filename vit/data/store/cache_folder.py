"""The cache folder for data that can be recreated: downloads, shard indexes, decoded pixels."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """$VITRAL_CACHE/NAME, or vitral/NAME in the user's cache folder. It may not exist yet."""
    own = os.environ.get("VITRAL_CACHE")
    if own:
        return Path(own).expanduser() / name
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vitral" / name
