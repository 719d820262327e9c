"""Findings of a data set: how often each kind of `vit.data.check.kinds` occurs, and its first places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from vit.data.check.kinds import KINDS, Kind, Severity
from vit.errors import UserError

SHOWN = 10
LINES = 8
"""Maximum number of lines to print before training."""


@dataclass
class Finding:
    """One kind of fault in one place."""

    id: str
    where: str
    """The file, folder or split."""
    count: int = 0
    of: int = 0
    """How many were checked; 0 if that does not apply."""
    names: list[str] = field(default_factory=list)
    """The first SHOWN places."""
    detail: str = ""
    """Details that the kind does not contain, such as the allowed values."""
    strict: bool = False

    @property
    def kind(self) -> Kind:
        return KINDS[self.id]

    @property
    def severity(self) -> Severity:
        if self.strict:
            return "error"
        rare = self.kind.severity == "warning" and self.count <= self.kind.share * self.of
        return "note" if rare else self.kind.severity

    def line(self) -> str:
        """The finding on one line: "train.json: boxes without extent, left out: 3 of 90 (a.jpg ...). Delete them."."""
        amount = f"{self.count:,} of {self.of:,}" if self.of else f"{self.count:,}"
        detail = f" {self.detail}" if self.detail else ""
        return f"{self.where}: {self.kind.title}: {amount} ({self.first()}).{detail} {self.kind.remedy}"

    def first(self) -> str:
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more:,} more" if more > 0 else "")

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values, for --json."""
        return {
            "id": self.id,
            "severity": self.severity,
            "where": self.where,
            "what": self.kind.title,
            "count": self.count,
            "of": self.of or None,
            "first": self.names,
            "detail": self.detail or None,
            "remedy": self.kind.remedy,
        }


class Findings:
    """All findings of a data set, in the order they were added. strict: ids of kinds to treat as errors."""

    def __init__(self, *, strict: Iterable[str] = ()) -> None:
        self._strict = frozenset(strict)
        self._found: dict[tuple[str, str], Finding] = {}

    def add(
        self, id: str, where: str, names: str | Iterable[str], count: int = 1, *, of: int = 0, detail: str = ""
    ) -> None:
        """Add `count` occurrences of a kind; 0 adds nothing. names: any number of them, of which the first are kept."""
        if not count:
            return
        found = self._found.setdefault((id, where), Finding(id, where, strict=id in self._strict))
        found.count += count
        found.of = max(found.of, of)
        found.detail = found.detail or detail
        names = [names] if isinstance(names, str) else names
        found.names += islice(names, min(count, SHOWN - len(found.names)))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found.values())

    def of(self, severity: Severity) -> list[Finding]:
        return [found for found in self if found.severity == severity]

    def count(self, id: str) -> int:
        return sum(found.count for found in self if found.id == id)

    def ids(self) -> set[str]:
        return {found.id for found in self}

    def notes(self, leave_out: Iterable[str] = ()) -> list[str]:
        """A line for each warning and note, at most LINES, which `vitral train` prints. leave_out: ids to skip."""
        told = [found for found in (*self.of("warning"), *self.of("note")) if found.id not in leave_out]
        lines = [("Warning: " if found.severity == "warning" else "") + found.line() for found in told]
        if len(lines) > LINES:
            rest = ", ".join(dict.fromkeys(found.id for found in told[LINES - 1 :]))
            lines[LINES - 1 :] = [f"There is more, which vitral data check tells: {rest}."]
        return lines

    def raise_errors(self) -> None:
        """Raise UserError with the first error, if any."""
        errors = self.of("error")
        if errors:
            rest = ", ".join(found.id for found in errors[1:])
            more = f" There are more errors ({rest}): vitral data check lists all." if rest else ""
            raise UserError(errors[0].line() + more)
