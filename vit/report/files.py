"""Writing figures: strict JSON, whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from vit.errors import UserError


def write_json(path: str | Path, values: Any) -> None:
    """Strict JSON (no NaN), whole or not at all. Raises UserError when the place cannot be written to."""
    path = Path(path)
    text = json.dumps(defined(values), indent=1, ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Choose another place.") from None


def defined(values: Any) -> Any:
    """The same with NaN and infinities as None: undefined."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, dict):
        return {str(key): defined(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [defined(value) for value in values]
    return values
