"""Read data.yaml: the images and class names of a YOLO source.

Paths follow Ultralytics' rules: `train`, `val` and `test` are folders, lists (.txt) or several of them, relative to
`path`; a leading ../ is dropped if the path does not exist. A relative `path` is resolved against the file's folder,
then the current folder. Nothing in the file is run or downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from vit.data.boxes.draft import ALL, likeliest
from vit.data.check.findings import Findings
from vit.data.split_names import SPLIT_NAMES
from vit.errors import UserError, shown
from vit.images.preprocess import IMAGE_SUFFIXES

LARGEST = 10 * 2**20
"""Bytes of a data.yaml."""
EXPECTED = "data.yaml with train, val and names; or images/, labels/ and classes.txt"
SUFFIXES = (".yaml", ".yml")


class YoloPart(NamedTuple):
    """One split."""

    where: str
    pictures: list[str]
    """Absolute paths."""
    folders: list[str]
    """Its source folders; every image in them belongs to the split."""


class YoloData(NamedTuple):
    """The content of a data.yaml."""

    file: str
    root: str
    names: dict[int, str]
    keypoints: int
    parts: dict[str, YoloPart]


def look(source: str) -> str:
    """The file that makes a folder a YOLO source, for a message; "" if there is none."""
    return ", ".join(os.path.relpath(file, source) for file in _files(source)) or (
        "classes.txt beside labels/" if os.path.isdir(source) and _plain_splits(source) else ""
    )


def find(source: str, findings: Findings) -> YoloData:
    """Read the source. Raises UserError for several YAML files, an invalid one, and missing images."""
    if os.path.isfile(source):
        return _described(os.path.abspath(source), _load(source), findings)
    files = _files(source)
    if len(files) > 1:
        raise UserError(f"{source}: holds several descriptions ({shown(files)}). Give one of them as the data.")
    if files:
        return _described(os.path.abspath(files[0]), _load(files[0]), findings)
    return _plain(os.path.abspath(source))


def label_files(part: YoloPart) -> Iterator[str]:
    """Yield the text files that may hold labels for a split's folders."""
    for folder in part.folders:
        beside = os.path.dirname(label_file(os.path.join(folder, "x")))
        for here, _, names in os.walk(beside):
            for name in sorted(names):
                if name.endswith(".txt") and name not in ("classes.txt", "README.txt", "train.txt", "val.txt"):
                    yield os.path.join(here, name)


def label_file(picture: str) -> str:
    """The label file of an image: the last images/ in its path becomes labels/, and the suffix .txt."""
    before, swap, after = picture.rpartition(f"{os.sep}images{os.sep}")
    path = f"{before}{os.sep}labels{os.sep}{after}" if swap else picture
    return os.path.splitext(path)[0] + ".txt"


def _files(source: str) -> list[str]:
    """The YAML files in a folder that describe a data set."""
    if not os.path.isdir(source):
        return []
    named = [os.path.join(source, name) for name in sorted(os.listdir(source)) if name.lower().endswith(SUFFIXES)]
    return [file for file in named if _describes(file)]


def _describes(file: str) -> bool:
    """Whether a file describes a data set. An unreadable data.yaml counts, so that its error is reported."""
    try:
        content = _load(file)
    except UserError:
        return os.path.basename(file).startswith(("data.", "dataset."))
    return ("names" in content or "nc" in content) and bool(content.keys() & {"train", "val"})


def _load(file: str) -> dict[Any, Any]:
    try:
        if os.path.getsize(file) > LARGEST:
            raise UserError(f"{file}: more than {LARGEST // 2**20} MB, too large for a description of data.")
        with open(file, "rb") as stream:
            content = yaml.safe_load(stream)
    except yaml.constructor.ConstructorError as error:
        raise UserError(f"{file}: holds a tag that is not plain data and is never run ({error.problem}).") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())[:300]}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: is not a mapping with train, val and names.")
    return content


def _described(file: str, content: dict[Any, Any], findings: Findings) -> YoloData:
    if content.get("download"):
        findings.add("yaml-code", file, "download")
    root = _root(file, content.get("path"), findings)
    names = _names(file, content)
    parts: dict[str, YoloPart] = {}
    for key, split in SPLIT_NAMES.items():
        value = content.get(key)
        if value and split not in parts:
            part = _part(file, root, key, value if isinstance(value, list) else [value], findings)
            if part is not None:
                parts[split] = part
    if not parts:
        raise UserError(f"{file}: none of train, val and test leads to images.")
    shape = content.get("kpt_shape")
    keypoints = 0
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(k, int) and 0 <= k < 10_000 for k in shape):
        keypoints = shape[0] * shape[1]
    return YoloData(file, root, names, keypoints, parts)


def _root(file: str, path: Any, findings: Findings) -> str:
    here = os.path.dirname(file)
    if path is None:
        return here
    if not isinstance(path, str) or "://" in path:
        raise UserError(f"{file}: path must be a folder, not {_kind_of(path)}. Data is not fetched; download it first.")
    for base in (here, os.getcwd()):
        folder = os.path.normpath(os.path.join(base, path))
        if os.path.isdir(folder):
            return folder
    # The data set was moved; assume that it is still next to the file.
    findings.add("yaml-path", file, path)
    return here


def _names(file: str, content: dict[Any, Any]) -> dict[int, str]:
    names, count = content.get("names"), content.get("nc")
    if names is None and isinstance(count, int) and count > 0:
        names = [f"class_{k}" for k in range(count)]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{file}: names must be a list of names, or numbers with names.")
    found: dict[int, str] = {}
    for key, name in names.items():
        if not (isinstance(key, int) or (isinstance(key, str) and key.isdecimal())) or int(key) in found or key is True:
            raise UserError(f"{file}: names: {str(key)[:40]!r} is not a new whole number.")
        # YAML parses no, yes, on and off as booleans, and a lone ~ as null.
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise UserError(f"{file}: names: {key} is {_kind_of(name)}. Put the name into quotes.")
        found[int(key)] = str(name)
    if isinstance(count, int) and count != len(found):
        raise UserError(f"{file}: nc is {count}, but there are {len(found)} names.")
    twice = sorted({name for name in found.values() if list(found.values()).count(name) > 1})
    if twice:
        raise UserError(f"{file}: names a class twice: {shown(twice)}.")
    return dict(sorted(found.items()))


def _part(file: str, root: str, key: str, values: list[Any], findings: Findings) -> YoloPart | None:
    pictures: list[str] = []
    folders: list[str] = []
    for value in values:
        if not isinstance(value, str) or "://" in value:
            raise UserError(f"{file}: {key} is {_kind_of(value)}, not a folder or a list. Download the images first.")
        tried = [os.path.join(base, part) for base in (root, os.path.dirname(file)) for part in _without_dots(value)]
        place = next((os.path.normpath(path) for path in tried if os.path.exists(path)), None)
        if place is None:
            findings.add("test-missing" if key == "test" else "split-missing", file, f"{key}: {value}")
        elif os.path.isdir(place):
            folders.append(place)
            pictures += _below(place)
        else:
            pictures += _listed(place, root)
    return YoloPart(f"{file} ({key})", pictures, folders) if pictures else None


def _without_dots(value: str) -> list[str]:
    return [value, value[3:]] if value.startswith("../") else [value]


def _below(folder: str) -> list[str]:
    found = [
        os.path.join(here, name)
        for here, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    ]
    return sorted(found)


def _listed(file: str, root: str) -> list[str]:
    """The images in a list. Ultralytics resolves ./ against the list; the base of other relative paths is a guess."""
    try:
        with open(file, encoding="utf-8-sig") as stream:
            lines = [line.strip() for line in stream if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a list of images ({error}).") from None
    base = likeliest(lines, [os.path.dirname(file), root, os.getcwd()])
    return [os.path.normpath(os.path.join(base, line)) for line in lines]


def _plain(source: str) -> YoloData:
    """Read images/, labels/ and classes.txt, as labeling tools write them."""
    splits = _plain_splits(source)
    if not splits:
        raise UserError(f"{source}: no YOLO data. Expected {EXPECTED}.")
    file = next(path for path in _class_lists(source) if os.path.isfile(path))
    with open(file, encoding="utf-8-sig") as stream:
        names = [line.strip() for line in stream if line.strip()]
    parts = {split: YoloPart(folder, _below(folder), [folder]) for split, folder in splits.items()}
    return YoloData(file, source, _names(file, {"names": names}), 0, {k: p for k, p in parts.items() if p.pictures})


def _plain_splits(source: str) -> dict[str, str]:
    if not any(map(os.path.isfile, _class_lists(source))):
        return {}
    found = {
        split: folder
        for name, split in SPLIT_NAMES.items()
        for images, labels in ((("images", name), ("labels", name)), ((name, "images"), (name, "labels")))
        if os.path.isdir(folder := os.path.join(source, *images)) and os.path.isdir(os.path.join(source, *labels))
    }
    whole = os.path.join(source, "images")
    return found or ({ALL: whole} if all(os.path.isdir(os.path.join(source, k)) for k in ("images", "labels")) else {})


def _class_lists(source: str) -> list[str]:
    return [os.path.join(source, *parts) for parts in (("classes.txt",), ("labels", "classes.txt"))]


def _kind_of(value: Any) -> str:
    """Describe an untrusted value for a message, in bounded length."""
    return f"{value[:80]!r}" if isinstance(value, str) else f"a {type(value).__name__}"
