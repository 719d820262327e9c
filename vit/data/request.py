"""What a reader opens."""

from __future__ import annotations

from dataclasses import dataclass

from vit.data.check.findings import Findings


@dataclass(frozen=True)
class Request:
    """A source, and how to split its images."""

    source: str
    """As the user wrote it, for messages and the record."""
    path: str
    """The path, without ~ and #COLUMN."""
    column: str | None = None
    """The column with the labels, if a table has several."""
    seed: int | None = 0
    """Seed of the validation split, if the source has none; None holds nothing out."""
    evaluation: bool = False
    """Train may be missing, and a source without splits is all test."""
    findings: Findings | None = None
    """Collects faults; without it the first error is raised."""
