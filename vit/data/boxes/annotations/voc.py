"""Pascal VOC's XML: one annotation file an image -> Draft.

VOC counts pixels from 1 and a box includes its last one: the box xmin..xmax covers x from xmin - 1 to xmax, which is
what is given here, as Detectron2 and the usual converters to COCO do. torchvision gives the numbers as they are in the
file. `difficult` objects are not trained on and cost nothing in evaluation, like COCO's crowds. There are no category
ids; the names in alphabetical order are 1, 2, ....
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
"""Boxes counted from 0 begin a pixel before the image; see the finding voc-from-zero."""

look = voc_files.look


def read(source: str, findings: Findings) -> Drafts:
    """A folder with VOC annotations.

    Raises UserError where no annotation is found, or two folders would be one split.
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
    """None for a file that cannot be read; what is wrong with one object is counted, and the object left out."""
    try:
        root = read_xml(file)
        width, height = (int(_number(root, f"size/{side}", 0)) for side in ("width", "height"))
    except (ValueError, OverflowError) as error:  # a size of NaN or infinity is no whole number
        findings.add("annotation-malformed", where, str(error) if isinstance(error, UserError) else f"{file}: {error}")
        return None
    objects = []
    for k, thing in enumerate(root.findall("object"), 1):
        try:
            # Only the object's own box: its parts (head, hand, foot) have boxes, too.
            x, y, right, bottom = (_number(thing, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            name = (thing.findtext("name") or "").strip()
            if not name:
                raise UserError("has no name")
            objects.append(_Object(name, (x, y, right, bottom), _number(thing, "difficult", 0) != 0))
        except UserError as error:
            findings.add("annotation-malformed", where, f"{file}, object {k}: {error}")
    # labelImg and others write a whole path, perhaps of another system.
    filename = (root.findtext("filename") or "").strip().replace("\\", "/").rsplit("/", 1)[-1]
    return _Told(filename, (height, width) if min(width, height) > 0 else UNTOLD, objects)


def _number(node: Element, path: str, default: float = math.nan) -> float:
    """A number in the text of an element. NaN may be written there, but an element that is not there raises."""
    text = node.findtext(path)
    if text is None or not text.strip():
        if math.isnan(default):
            raise UserError(f"has no {path}")
        return default
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path} is {text.strip()[:40]!r}, not a number") from None
