"""The version of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """As pip knows it; "0+unknown" in a clone that was never installed."""
    try:
        return installed("vitral")
    except PackageNotFoundError:
        return "0+unknown"
