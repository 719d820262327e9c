"""python -m datasets pack SRC OUT: write tar shards from any data."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    raise NotImplementedError
