"""Read the rows of a manifest: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vit.data.store.arrow import damaged, open_parquet_file
from vit.errors import UserError, shown

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
PATH_COLUMNS = ("path", "file_name")  # file_name is Hugging Face's, in metadata.csv
LABEL_COLUMNS = ("label", "labels")


class Row(NamedTuple):
    """One image of a manifest. `line` counts lines of a text file from 1, and rows of a Parquet file from 0."""

    line: int
    path: str
    labels: list[str]
    split: str | None
    """As written, lowercased; None without a split column."""


class Columns(NamedTuple):
    """The column names in this file."""

    path: str
    label: str
    split: str | None

    @property
    def multilabel(self) -> bool:
        return self.label == "labels"


def place(path: str, line: int) -> str:
    """The location of a row, for messages."""
    return f"{path}, {'row' if path.lower().endswith('.parquet') else 'line'} {line}"


def columns_of(names: Sequence[str]) -> Columns | None:
    """Find a manifest's columns; None if these are not a manifest's."""
    paths, labels = ([name for name in wanted if name in names] for wanted in (PATH_COLUMNS, LABEL_COLUMNS))
    if len(paths) != 1 or len(labels) != 1:
        return None
    return Columns(paths[0], labels[0], "split" if "split" in names else None)


def read_rows(path: str) -> tuple[Columns, Iterator[Row]]:
    """The columns of a manifest and an iterator over its rows. Raises UserError with file and line."""
    kind = path.lower().rpartition(".")[2]
    if kind == "jsonl":
        rows = _json_lines(path)
    elif kind == "parquet":
        rows = _parquet(path)
    else:
        rows = _delimited(path, "\t" if kind == "tsv" else ",")
    line, header = next(rows)
    columns = columns_of(header)
    if columns is None:
        raise UserError(
            f"{place(path, line)}: the columns are {shown(header)}; needed are path and label or "
            "labels (several, separated by ;)."
        )
    return columns, (_row(path, line, dict(zip(header, cells, strict=True)), columns) for line, cells in rows)


def header_of(path: str) -> list[str]:
    """The column names; [] for a file that cannot be read as its suffix says."""
    try:
        if path.lower().endswith(".parquet"):
            return [name.lower() for name in open_parquet_file(path).schema_arrow.names]
        kind = path.lower().rpartition(".")[2]
        rows = _json_lines(path) if kind == "jsonl" else _delimited(path, "\t" if kind == "tsv" else ",")
        return next(rows)[1]
    except (UserError, OSError):
        return []


def _row(path: str, line: int, cells: dict[str, Any], columns: Columns) -> Row:
    name = str(cells[columns.path] or "").strip()
    if not name:
        raise UserError(f"{place(path, line)}: the path is empty.")
    if "://" in name:
        raise UserError(f"{place(path, line)}: {name} is a URL. Download the images first.")
    value = cells[columns.label]
    if columns.multilabel:
        words = re.split(r"[;|]", value) if isinstance(value, str) else value or []
        if not isinstance(words, list):
            raise UserError(f"{place(path, line)}: labels is {value!r}, neither a list nor text separated by ;.")
    else:
        if isinstance(value, list | dict):
            raise UserError(f"{place(path, line)}: the label is {value!r}. Several labels go into a column labels.")
        words = [] if value is None else [value]
    labels = [text for word in words if (text := str(word).strip())]
    if not labels and not columns.multilabel:
        raise UserError(f"{place(path, line)}: the label is empty.")
    split = None if columns.split is None else str(cells[columns.split] or "").strip().lower()
    return Row(line, name, labels, split)


def _delimited(path: str, delimiter: str) -> Iterator[tuple[int, list[Any]]]:
    """Yield (line, cells), the lowercased column names first."""
    kind = "CSV" if delimiter == "," else "TSV"
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader, header = csv.reader(file, delimiter=delimiter), []
        try:
            for cells in reader:
                if not any(cells):
                    continue
                if not header:
                    header = [cell.strip().lower() for cell in cells]
                    yield reader.line_num, header
                elif len(cells) != len(header):
                    told = f"{len(cells)} cells where the header has {len(header)}"
                    raise UserError(f"{path}, line {reader.line_num}: {told}.")
                else:
                    yield reader.line_num, cells
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: is not a {kind} file in UTF-8 ({error}). Save it as such.") from None
    if not header:
        raise UserError(f"{path}: the manifest is empty. Its first line is path,label or path,labels.")


def _json_lines(path: str) -> Iterator[tuple[int, list[Any]]]:
    """Yield (line, values), the lowercased keys of the first object first; all objects need its manifest columns."""
    header: list[str] = []
    with open(path, encoding="utf-8-sig") as file:
        try:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise UserError(f'{path}, line {line}: is not an object such as {{"path": ..., "label": ...}}.')
                row = {key.strip().lower(): value for key, value in row.items()}
                if not header:
                    header = list(row)
                    yield line, header
                needed = columns_of(header)
                missing = [name for name in needed or () if name is not None and name not in row]
                if missing:
                    raise UserError(f"{path}, line {line}: has no {shown(missing)}, which the first line has.")
                yield line, [row.get(name) for name in header]
        except (UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"{path}: is not text in UTF-8 ({error}). Save it as such.") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {line}: is not JSON ({error.msg}). One object a line.") from None
    if not header:
        raise UserError(f'{path}: the manifest is empty. Its lines are {{"path": ..., "label": ...}}.')


def _parquet(path: str) -> Iterator[tuple[int, list[Any]]]:
    """Yield (row, values), the lowercased column names first; reads 8,192 rows at a time."""
    file = open_parquet_file(path)
    names: list[str] = file.schema_arrow.names
    header = [name.lower() for name in names]
    yield 0, header
    needed = columns_of(header)
    wanted = [name for name in names if needed is not None and name.lower() in needed]
    row = -1
    try:
        for batch in file.iter_batches(8192, columns=wanted, use_threads=False):
            columns = {name.lower(): batch.column(name).to_pylist() for name in wanted}
            for values in zip(*(columns.get(name, [None] * batch.num_rows) for name in header), strict=True):
                row += 1
                yield row, list(values)
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise damaged(path, error) from None
