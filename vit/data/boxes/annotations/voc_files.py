"""Find the XML files, images and splits of a VOC source."""

from __future__ import annotations

import os
from typing import NamedTuple

from vit.data.boxes.draft import ALL
from vit.data.split_names import SPLIT_NAMES
from vit.errors import UserError
from vit.images.preprocess import IMAGE_SUFFIXES

EXPECTED = "Annotations/*.xml with JPEGImages/, or *.xml beside the images, in DIR or DIR/{train,val,test}"


class VocPart(NamedTuple):
    """One split."""

    where: str
    """Its name in messages: an ImageSets list, or the folder of the XML files."""
    annotations: str
    images: str
    files: dict[str, str]
    """{path without suffix: path} of the XML files, relative to `annotations`."""
    listed: bool
    """Whether an ImageSets list defines the images; otherwise the files do."""


def look(source: str) -> str:
    """The XML files in a folder, for a message; "" if there are none."""
    if not os.path.isdir(source):
        return ""
    home = _home(source)
    folders = [home, *(os.path.join(home, name) for name in _entries(home) if name.lower() in SPLIT_NAMES)]
    for folder in folders:
        places = _places(folder)
        if places is not None:
            return os.path.relpath(os.path.join(places[0], "*.xml"), source)
    return ""


def find(source: str) -> dict[str, VocPart]:
    """Return {split: part}. Raises UserError if two folders map to the same split."""
    home = _home(source)
    places = _places(home)
    if places is not None:
        return _listed(home, *places) or {ALL: _whole(*places)}
    found: dict[str, VocPart] = {}
    for name in _entries(home):
        split, folder = SPLIT_NAMES.get(name.lower()), os.path.join(home, name)
        places = _places(folder) if split else None
        if split and places is not None:
            if split in found:
                raise UserError(f"{source}: both {found[split].where} and {folder} would be {split}. Remove one.")
            found[split] = _whole(*places)
    return found


def pictures(folder: str) -> dict[str, str]:
    """Return {path without suffix: path} of the images below a folder, relative to it."""
    return _below(folder, IMAGE_SUFFIXES)


def _home(source: str) -> str:
    """The folder of one year. The archives unpack to VOCdevkit/VOC2012/, possibly next to other years."""
    below = os.path.join(source, "VOCdevkit")
    kit = below if os.path.isdir(below) else source
    years = [name for name in _entries(kit) if os.path.isdir(os.path.join(kit, name, "Annotations"))]
    years = [name for name in years if name.upper().startswith("VOC")]
    if len(years) > 1:
        choices = " or ".join(os.path.join(kit, name) for name in years)
        raise UserError(f"{source}: holds several sets of VOC. Give one of them: {choices}.")
    return os.path.join(kit, years[0]) if years else source


def _places(folder: str) -> tuple[str, str] | None:
    """Return (XML folder, image folder), or None if there are no XML files."""
    entries = {name.lower(): os.path.join(folder, name) for name in reversed(_entries(folder))}
    annotations = next((entries[name] for name in ("annotations", "annotation", "xmls") if name in entries), None)
    if annotations is not None and _has_xml(annotations):
        images = next((entries[name] for name in ("jpegimages", "images", "image") if name in entries), folder)
        return annotations, images
    return (folder, folder) if any(map(_is_xml, _entries(folder))) else None


def _whole(annotations: str, images: str) -> VocPart:
    files = _below(annotations, (".xml",), deep=annotations != images)
    return VocPart(annotations, annotations, images, files, False)


def _listed(home: str, annotations: str, images: str) -> dict[str, VocPart]:
    """The splits listed in ImageSets/Main. trainval is used as train if there is no separate train list."""
    folder = os.path.join(home, "ImageSets", "Main")
    if not os.path.isdir(folder):
        return {}
    found: dict[str, VocPart] = {}
    files = _below(annotations, (".xml",))
    names = {os.path.splitext(name)[0].lower(): name for name in _entries(folder) if name.endswith(".txt")}
    for name, split in (*SPLIT_NAMES.items(), ("trainval", "train")):
        if name in names and split not in found:
            path = os.path.join(folder, names[name])
            with open(path, encoding="utf-8-sig") as file:
                stems = [line.strip() for line in file if line.strip()]
            mine = {stem: files.get(stem, f"{stem}.xml") for stem in stems}
            found[split] = VocPart(path, annotations, images, mine, True)
    return found


def _below(folder: str, suffixes: tuple[str, ...], *, deep: bool = True) -> dict[str, str]:
    """Return {path without suffix: path} of the files below a folder, relative to it."""
    found: dict[str, str] = {}
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(folders) if deep else []
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                path = os.path.relpath(os.path.join(here, name), folder).replace(os.sep, "/")
                found.setdefault(os.path.splitext(path)[0], path)
    return found


def _has_xml(folder: str) -> bool:
    return any(_is_xml(name) for _, _, names in os.walk(folder) for name in names)


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml") and not name.startswith(".")


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
