"""Read Pascal VOC XML, one annotation file per image, into a Draft.

VOC pixels are 1-based and inclusive: the box xmin..xmax covers x from xmin - 1 to xmax. Boxes are converted that way,
as in Detectron2 and the usual COCO converters; torchvision returns the file's raw numbers. `difficult` objects are
excluded from training and ignored in evaluation, like COCO crowds. VOC has no category ids; the names in alphabetical
order get 1, 2, ....
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple
from xml.etree.ElementTree import Element

from vit.data.boxes.annotations import voc_files
from vit.data.boxes.annotations.voc_files import VocPart
from vit.data.boxes.annotations.xml_tree import read_xml
from vit.data.boxes.draft import UNTOLD, Draft, Drafts
from vit.data.boxes.named_classes import named_classes
from vit.data.check.findings import Findings
from vit.errors import UserError

FORM = "xmin, ymin, xmax, ymax in pixels, counted from 1"
SLACK = 1.0
"""Pixels. 0-based boxes start one pixel outside the image; see the finding voc-from-zero."""

look = voc_files.look


def read(source: str, findings: Findings) -> Drafts:
    """Read a folder with VOC annotations.

    Raises UserError if there are no annotations or two folders map to the same split.
    """
    parts = voc_files.find(source)
    drafts = {split: _draft(part, findings) for split, part in parts.items()}
    rule = "as found in " + ", ".join(part.where for part in parts.values())
    return Drafts(drafts, named_classes(drafts, source, findings), rule)


def _draft(part: VocPart, findings: Findings) -> Draft:
    draft = Draft(part.where, part.images, form=FORM, mark="object {}", slack=SLACK)
    pictures = voc_files.pictures(part.images)
    taken: set[str] = set()
    zero: list[str] = []
    for stem, path in part.files.items():
        told = _annotation(os.path.join(part.annotations, path), findings, part.where)
        picture = pictures.get(stem)
        if told is None:
            taken.add(stem)
            continue
        if picture is None and told.filename in pictures.values():
            picture = told.filename
        elif picture is not None and told.filename and os.path.splitext(told.filename)[0] != os.path.basename(stem):
            findings.add("voc-filename", part.where, f"{path}: {told.filename}", of=len(part.files))
        if picture is None and not part.listed:
            findings.add("annotation-unlisted", part.where, path, of=len(part.files))
            continue
        taken.add(os.path.splitext(picture or "")[0])
        owner = draft.image(picture or f"{stem}.jpg", told.size)
        for k, thing in enumerate(told.objects, 1):
            if min(thing.box[:2]) == 0:
                zero.append(f"{path}, object {k}")
            x, y, right, bottom = thing.box
            draft.box(owner, k, (x - 1, y - 1, right, bottom), thing.name, crowd=thing.difficult)
    findings.add("voc-from-zero", part.where, zero, len(zero), of=len(draft.boxes))
    if not part.listed:
        alone = [name for stem, name in pictures.items() if stem not in taken]
        findings.add("image-unlisted", part.where, alone, len(alone), of=len(pictures))
    return draft


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class _Told(NamedTuple):
    filename: str
    size: tuple[int, int]
    objects: list[_Object]


def _annotation(file: str, findings: Findings, where: str) -> _Told | None:
    """Parse one file; None if it cannot be read. A malformed object is reported and left out."""
    try:
        root = read_xml(file)
        width, height = (int(_number(root, f"size/{side}", 0)) for side in ("width", "height"))
    except (ValueError, OverflowError) as error:  # int() of a NaN or infinite size
        findings.add("annotation-malformed", where, str(error) if isinstance(error, UserError) else f"{file}: {error}")
        return None
    objects = []
    for k, thing in enumerate(root.findall("object"), 1):
        try:
            # Read only the object's own box; its parts (head, hand, foot) have boxes too.
            x, y, right, bottom = (_number(thing, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            name = (thing.findtext("name") or "").strip()
            if not name:
                raise UserError("has no name")
            objects.append(_Object(name, (x, y, right, bottom), _number(thing, "difficult", 0) != 0))
        except UserError as error:
            findings.add("annotation-malformed", where, f"{file}, object {k}: {error}")
    # labelImg and others write a full path, perhaps from another system.
    filename = (root.findtext("filename") or "").strip().replace("\\", "/").rsplit("/", 1)[-1]
    return _Told(filename, (height, width) if min(width, height) > 0 else UNTOLD, objects)


def _number(node: Element, path: str, default: float = math.nan) -> float:
    """The number in an element, which may be NaN. Without a default, raises UserError if the element is missing."""
    text = node.findtext(path)
    if text is None or not text.strip():
        if math.isnan(default):
            raise UserError(f"has no {path}")
        return default
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path} is {text.strip()[:40]!r}, not a number") from None
