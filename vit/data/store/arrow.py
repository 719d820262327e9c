"""The only module that imports pyarrow, which only Parquet files need."""

from __future__ import annotations

from typing import Any

from vit.errors import UserError


def parquet_module(path: str) -> Any:
    """Import pyarrow.parquet. Raises UserError, naming the file that needs it, if pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f'{path}: reading Parquet needs pyarrow ({error}): pip install -e ".[parquet]", or pip install pyarrow.'
        ) from None
    return pyarrow.parquet


def open_parquet_file(path: str) -> Any:
    """Open a pyarrow ParquetFile, reading only its footer. Raises UserError for an invalid or truncated file."""
    module = parquet_module(path)
    try:
        return module.ParquetFile(path)
    except Exception as error:  # ArrowInvalid, OSError, or anything that a corrupt footer causes
        raise UserError(
            f"{path}: is not a whole Parquet file ({_first_line(error)}). Fetch or write it again."
        ) from None


def damaged(path: str, error: Exception) -> UserError:
    """The error for a column that cannot be read."""
    return UserError(f"{path}: cannot be read ({_first_line(error)}). The file is damaged; fetch or write it again.")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
