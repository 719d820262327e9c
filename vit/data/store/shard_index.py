"""Index the samples of a tar shard once, and store the index next to the shards.

Names follow WebDataset: a sample is the files whose names agree up to the first dot after the last slash, such as
000123.jpg and 000123.cls. The rest of a name gives the file's role.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from vit.data.sets.names import NameTable
from vit.data.store.cache_folder import cache_folder
from vit.data.store.tar_scan import Member, scan
from vit.errors import UserError, shown
from vit.images.preprocess import IMAGE_SUFFIXES

INDEX = ".vitral-index.npz"
VERSION = 1
NONE, LABEL, LABELS, BOXES = range(4)
"""The annotation kind of a sample."""
MAX_TEXT = 16 * 2**20


@dataclass
class ShardIndex:
    """The n samples of one shard that have an image."""

    blob: np.ndarray
    """uint8: the concatenated image names; `ends` int64 [n]: where each ends."""
    ends: np.ndarray
    offset: np.ndarray
    """int64 [n]: the image's offset in the shard; `size`: its size in bytes."""
    size: np.ndarray
    kind: np.ndarray
    """uint8 [n]: NONE, LABEL, LABELS or BOXES."""
    text_offset: np.ndarray
    """int64 [n]: offset of the .json with boxes; `text_size`: its size; 0 for other kinds."""
    text_size: np.ndarray
    codes: np.ndarray
    """int64 [m]: labels as indices in `words`; those of sample i end at label_ends[i]."""
    label_ends: np.ndarray
    words: list[int | str]
    """The distinct labels: numbers or names, as written."""
    empty: list[str]
    """Images of 0 bytes, which are left out."""
    without_image: int
    """Number of samples without an image."""


_ARRAYS = tuple(field.name for field in fields(ShardIndex) if field.type == "np.ndarray")
_PLAIN = tuple(field.name for field in fields(ShardIndex) if field.name not in _ARRAYS)


def indexes(folder: str, files: Sequence[str]) -> dict[str, ShardIndex]:
    """Return the index of each shard by name. A stored index is reused unless the shard is new or its size or
    modification time changed. Raises UserError for a shard that `scan` refuses or that has invalid labels."""
    known = _read(folder)
    found = {file: known[file][1] for file in files if file in known}
    missing = [file for file in files if file not in found]
    if missing:
        stamps = {file: _stamp(os.path.join(folder, file)) for file in missing}
        found |= {file: make_index(os.path.join(folder, file)) for file in missing}
        _write(folder, {**known, **{file: (stamps[file], found[file]) for file in missing}})
    return {file: found[file] for file in files}


def make_index(path: str) -> ShardIndex:
    """Scan a shard. Raises UserError as `indexes` does."""
    samples: dict[str, dict[str, Member]] = {}
    for member in scan(path):
        match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", member.name)
        if match is None:  # .DS_Store, README: not samples in WebDataset either
            continue
        key, ending = match[1], match[2].lower()
        parts = samples.setdefault(key, {})
        if ending in parts:
            raise UserError(f"{path}: holds {member.name} twice. Write the shard again.")
        parts[ending] = member
    names: list[str] = []
    rows: list[tuple[int, int, int, int, int]] = []
    empty: list[str] = []
    codes: list[int] = []
    label_ends: list[int] = []
    words: dict[int | str, int] = {}
    without = 0
    with open(path, "rb") as file:
        for key, parts in samples.items():
            image = _image(path, key, parts)
            if image is None:
                without += 1
                continue
            if image.size == 0:
                empty.append(image.name)
                continue
            kind, labels, text = _label(path, file.fileno(), parts)
            names.append(image.name)
            codes += [words.setdefault(label, len(words)) for label in labels]
            label_ends.append(len(codes))
            rows.append((image.offset, image.size, kind, text.offset if text else 0, text.size if text else 0))
    table, columns = NameTable.of(names), np.array(rows, np.int64).reshape(-1, 5).T
    offset, size, kinds, text_offset, text_size = (np.ascontiguousarray(column) for column in columns)
    flat, flat_ends = np.array(codes, np.int64), np.array(label_ends, np.int64)
    index = (table.blob, table.ends, offset, size, kinds.astype(np.uint8), text_offset, text_size, flat, flat_ends)
    return ShardIndex(*index, list(words), empty, without)


def _image(path: str, key: str, parts: Mapping[str, Member]) -> Member | None:
    """The image of a sample; of several, the one whose ending has no further dot."""
    images = [ending for ending in parts if f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    plain = [ending for ending in images if "." not in ending] or images
    if len(plain) > 1:
        raise UserError(
            f"{path}: the sample {key} has several images: {shown([parts[ending].name for ending in plain])}. The part "
            "of a name up to its first dot says which sample it is of: give each image a name of its own before it."
        )
    return parts[plain[0]] if plain else None


def _label(path: str, descriptor: int, parts: Mapping[str, Member]) -> tuple[int, list[int | str], Member | None]:
    """(kind, labels, member with boxes) of a sample: from .cls, else .json, else an ending such as .label.cls."""
    order = sorted(parts, key=lambda ending: ("." in ending, not ending.endswith("cls"), ending))
    ending = next((e for e in order if e.rpartition(".")[2] in ("cls", "json")), None)
    if ending is None:
        return NONE, [], None
    member = parts[ending]
    where = f"{path}, {member.name}"
    if member.size > MAX_TEXT:
        raise UserError(f"{where}: {member.size:,} bytes are more than the limit of {MAX_TEXT:,} for a label.")
    content = os.pread(descriptor, member.size, member.offset)
    try:
        text = content.decode("utf-8-sig").strip()
        value = json.loads(text) if ending.endswith("json") else text
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: cannot be read ({error}).") from None
    if ending.endswith("cls"):
        return (LABEL, [_word(where, text)], None) if text else (NONE, [], None)
    if isinstance(value, dict) and "boxes" in value:
        return BOXES, [], member
    if isinstance(value, dict) and value.get("label") is not None:
        return LABEL, [_word(where, value["label"])], None
    if isinstance(value, dict) and isinstance(value.get("labels"), list):
        return LABELS, [_word(where, label) for label in value["labels"]], None
    return NONE, [], None


def _word(where: str, value: Any) -> int | str:
    if isinstance(value, str) and value.strip():
        return int(value) if re.fullmatch(r"-?\d{1,9}", value.strip()) and where.endswith("cls") else value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise UserError(f"{where}: the label {value!r} is neither a whole number nor a name.")


def _stamp(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    return [status.st_size, status.st_mtime_ns]


def _places(folder: str) -> list[Path]:
    """Index locations: next to the shards, or in the user's cache folder if that is not writable."""
    digest = hashlib.blake2b(os.fsencode(os.path.realpath(folder)), digest_size=12).hexdigest()
    return [Path(folder) / INDEX, cache_folder("indexes") / f"{digest}.npz"]


def _read(folder: str) -> dict[str, tuple[list[int], ShardIndex]]:
    """Read the stored entries that match the current shards."""
    found: dict[str, tuple[list[int], ShardIndex]] = {}
    for place in _places(folder):
        try:
            with open(place, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                entries = _unpack({name: arrays[name] for name in arrays.files})
        except Exception:  # missing or damaged: the shards are indexed again
            continue
        for file, entry in entries.items():
            path = os.path.join(folder, file)
            if os.path.basename(file) == file and os.path.exists(path) and entry[0] == _stamp(path):
                found[file] = entry
    return found


def _unpack(arrays: dict[str, np.ndarray]) -> dict[str, tuple[list[int], ShardIndex]]:
    header = json.loads(arrays["header"].tobytes())
    if header["version"] != VERSION:
        return {}
    places = {name: np.cumsum([0, *arrays[f"{name}_lengths"].tolist()]) for name in _ARRAYS}
    found: dict[str, tuple[list[int], ShardIndex]] = {}
    for k, entry in enumerate(header["shards"]):
        parts = {name: arrays[name][places[name][k] : places[name][k + 1]] for name in _ARRAYS}
        index = ShardIndex(**parts, **{name: entry[name] for name in _PLAIN})
        if _sound(index, entry["stamp"][0]):
            found[entry["file"]] = (entry["stamp"], index)
    return found


def _sound(index: ShardIndex, whole: int) -> bool:
    """Whether all offsets are within the shard and consistent, since the index file is untrusted."""
    n = len(index.ends)
    pairs = ((index.offset, index.size), (index.text_offset, index.text_size))
    inside = all(len(at) == len(size) == n and (at >= 0).all() and (size >= 0).all() for at, size in pairs)
    inside = inside and all((at + size <= whole).all() for at, size in pairs)
    ordered = [(index.ends, len(index.blob)), (index.label_ends, len(index.codes))]
    rising = all(len(ends) == n and (np.diff(ends, prepend=0) >= 0).all() for ends, _ in ordered)
    closed = all((int(ends[-1]) if n else 0) == length for ends, length in ordered)
    known = len(index.kind) == n and bool(((index.codes >= 0) & (index.codes < len(index.words))).all())
    return bool(inside and rising and closed and known)


def _write(folder: str, entries: dict[str, tuple[list[int], ShardIndex]]) -> None:
    """Store the index in the first writable location; without one, it is rebuilt next time."""
    indices = [index for _, index in entries.values()]
    arrays = {name: np.concatenate([getattr(index, name) for index in indices]) for name in _ARRAYS}
    arrays |= {f"{name}_lengths": np.array([len(getattr(i, name)) for i in indices], np.int64) for name in _ARRAYS}
    shards = [
        {"file": file, "stamp": stamp, **{name: getattr(index, name) for name in _PLAIN}}
        for file, (stamp, index) in entries.items()
    ]
    header = json.dumps({"version": VERSION, "shards": shards}).encode()
    arrays["header"] = np.frombuffer(header, np.uint8)
    for place in _places(folder):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            # Concurrent processes each write their own file; the last rename wins.
            with tempfile.NamedTemporaryFile(dir=place.parent, prefix=place.name, suffix=".tmp", delete=False) as file:
                try:
                    os.chmod(file.name, 0o644)
                    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, place)
                except BaseException:
                    os.unlink(file.name)
                    raise
            return
        except OSError:
            continue
