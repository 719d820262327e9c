"""What a reader is asked to open."""

from __future__ import annotations

from dataclasses import dataclass

from vit.data.check.findings import Findings


@dataclass(frozen=True)
class Request:
    """A place, and how its images are divided."""

    source: str
    """As the user wrote it, for messages and the record."""
    path: str
    """Where it lies: without ~ and without #COLUMN."""
    column: str | None = None
    """The column with the labels, of a table that has several."""
    seed: int | None = 0
    """Of the split, where the source has none of its own; None: nothing is held out for validation."""
    evaluation: bool = False
    """The source need not have train, and what nothing divides is all test."""
    findings: Findings | None = None
    """Collects what is wrong; without it the first error is raised."""
