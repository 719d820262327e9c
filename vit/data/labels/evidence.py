"""Detect the format of a folder of labeled images from its files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from vit.data.labels.folder import LITTER
from vit.data.labels.manifest_files import columns_of, header_of
from vit.data.split_names import SPLIT_NAMES, split_of
from vit.errors import UserError, shown
from vit.images.preprocess import IMAGE_SUFFIXES

MANIFESTS = (".csv", ".tsv", ".jsonl")
LOOKED_AT = 64
"""Entries examined per folder, since a class folder may hold a million."""


def evidence(root: str) -> dict[str, list[str]]:
    """Return {label format: the files and folders that suggest it}, without formats that have none."""
    seen: dict[str, list[str]] = {}
    top = list(_entries(root))
    folders = [entry.name for entry in top if entry.is_dir()]
    files = [entry.name for entry in top if not entry.is_dir()]
    inner = {name: [entry.name for entry in islice(_entries(os.path.join(root, name)), LOOKED_AT)] for name in folders}
    nested = [f"{name}/{file}" for name, inside in inner.items() for file in inside]
    seen["shards"] = [name for name in (*files, *nested) if name.endswith(".tar")]
    tables = [name for name in (*files, *nested) if name.endswith(".parquet")]
    # The Hub writes DIR/default/train/0000.parquet.
    tables += [f"{name}/" for name in folders if not tables and _holds(os.path.join(root, name), (".parquet",))]
    named = {name: columns_of(header_of(os.path.join(root, name))) for name in tables if "/" not in name}
    lists = [name for name in files if name.endswith(MANIFESTS) and columns_of(header_of(os.path.join(root, name)))]
    seen["manifest"] = lists + [name for name, columns in named.items() if columns is not None]
    seen["parquet"] = [name for name in tables if named.get(name) is None]
    seen["folder"] = _class_folders(root, folders)
    return {name: sorted(found) for name, found in seen.items() if found}


def _class_folders(root: str, folders: list[str]) -> list[str]:
    """Folders of images inside split folders, if there are any; otherwise at the top, if there are at least two."""
    splits = [name for name in folders if name.lower() in SPLIT_NAMES]
    if splits:
        inside = {name: [e.name for e in _entries(os.path.join(root, name)) if e.is_dir()] for name in splits}
        return [
            f"{split}/{name}/"
            for split, names in inside.items()
            for name in names
            if _holds(os.path.join(root, split, name), IMAGE_SUFFIXES)
        ]
    found = [f"{name}/" for name in folders if _holds(os.path.join(root, name), IMAGE_SUFFIXES)]
    return found if len(found) > 1 else []


def _holds(folder: str, suffixes: tuple[str, ...], depth: int = 3) -> bool:
    """Whether one of the first entries has such a suffix, here or in one of the first subfolders."""
    below = []
    for entry in islice(_entries(folder), LOOKED_AT):
        if entry.name.lower().endswith(suffixes):
            return True
        if entry.is_dir():
            below.append(entry.path)
    return depth > 0 and any(_holds(path, suffixes, depth - 1) for path in below[:3])


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield a folder's entries in file system order, without hidden ones and litter."""
    try:
        with os.scandir(folder) as entries:
            yield from (e for e in entries if not e.name.startswith(".") and e.name not in LITTER)
    except OSError:
        return


def is_shards(source: str) -> bool:
    """Whether this is a shard, a pattern of shards, or a folder whose only recognized content is shards."""
    if os.path.isdir(source):
        return list(evidence(source)) == ["shards"]
    return source.endswith(".tar") and (os.path.isfile(source) or any(sign in source for sign in "{*?["))


def manifests(root: str) -> dict[str, str]:
    """Return {split: path} of a folder's manifests; {"all": path} for one. Raises UserError for two of one split."""
    files = evidence(root).get("manifest", [])
    if not files:
        raise UserError(f"{root}: no manifest. Expected is one with the columns path and label or labels.")
    if len(files) == 1:
        return {"all": os.path.join(root, files[0])}
    found: dict[str, str] = {}
    for name in sorted(files):
        split = split_of(name)
        if split is None or split in found:
            raise UserError(f"{root}: has several manifests: {shown(files)}. Give the one to read.")
        found[split] = os.path.join(root, name)
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def format_of_file(path: str) -> str | None:
    """The format of a single file; None if it is not supported."""
    name = path.lower()
    if name.endswith(".parquet"):
        return "manifest" if columns_of(header_of(path)) else "parquet"
    return "manifest" if name.endswith(MANIFESTS) else "shards" if name.endswith(".tar") else None
