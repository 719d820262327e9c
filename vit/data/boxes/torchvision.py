"""Read `torchvision:NAME` detection data sets, downloaded by torchvision, into a Draft.

VOCDetection[/YEAR], Kitti, WIDERFace and CocoDetection (which has no download) [@FOLDER]. The VOC and COCO readers read
those files. Kitti's DontCare regions have no class and are dropped; WIDERFace's invalid faces are excluded from
training and ignored in evaluation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from vit.data.boxes.annotations import coco, voc
from vit.data.boxes.draft import Draft, Drafts
from vit.data.boxes.named_classes import named_classes
from vit.data.check.findings import Findings
from vit.data.labels.torchvision import load_set
from vit.data.store.cache_folder import cache_folder
from vit.errors import UserError, shown

YEARS = ("2012", "2011", "2010", "2009", "2008", "2007")
RULE = "torchvision's own splits"


def names_boxes(source: str) -> bool:
    """Whether a source is a torchvision data set with boxes."""
    match = re.match(r"torchvision:(\w+)", source)
    return match is not None and match[1] in READERS


def read(source: str, findings: Findings) -> Drafts:
    """Read `torchvision:NAME[/VARIANT][@FOLDER]` from FOLDER or the user's cache folder.

    Raises UserError for an unknown variant, and for data that are missing and cannot be downloaded.
    """
    match = re.fullmatch(r"torchvision:(\w+)(?:/([^@]*))?(?:@(.+))?", source)
    name, variant, folder = match.groups() if match else ("", None, None)
    variants = YEARS if name == "VOCDetection" else ()
    if variant is not None and variant not in variants:
        raise UserError(f"{source}: the variants of {name} are {shown(variants) or 'none'}.")
    folder = os.path.expanduser(folder) if folder else str(cache_folder("torchvision"))
    return READERS[name](source, folder, variant, findings)


def _voc(source: str, folder: str, year: str | None, findings: Findings) -> Drafts:
    year = year or YEARS[0]
    splits = ("train", "val", "test") if year == "2007" else ("train", "val")
    opened = [load_set(source, "VOCDetection", {"year": year, "image_set": split}, folder) for split in splits]
    drafts = voc.read(os.path.dirname(os.path.dirname(opened[0].images[0])), findings)
    return drafts._replace(rule=RULE)


def _coco(source: str, folder: str, _: str | None, findings: Findings) -> Drafts:
    if not os.path.isdir(folder) or not coco.look(folder):
        raise UserError(
            f"{source}: no annotations in {folder}, and torchvision has no download for COCO. Put annotations/*.json "
            "and the images there, or name another folder: torchvision:CocoDetection@FOLDER."
        )
    return coco.read(folder, findings)


def _kitti(source: str, folder: str, _: str | None, findings: Findings) -> Drafts:
    opened = load_set(source, "Kitti", {"train": True}, folder)
    draft = Draft(source, os.path.dirname(opened.images[0]), mark="object {}")
    for i in sorted(range(len(opened)), key=lambda i: opened.images[i]):
        owner = draft.image(os.path.basename(opened.images[i]))
        for k, thing in enumerate(opened._parse_target(i), 1):
            if thing["type"] != "DontCare":
                left, top, right, bottom = thing["bbox"]
                draft.box(owner, k, (left, top, right, bottom), thing["type"])
    # Kitti's test images have no labels.
    parts = {"all": draft}
    return Drafts(parts, named_classes(parts, folder, findings), RULE)


def _faces(source: str, folder: str, _: str | None, findings: Findings) -> Drafts:
    parts: dict[str, Draft] = {}
    for split in ("train", "val"):
        opened = load_set(source, "WIDERFace", {"split": split}, folder)
        root = os.path.join(opened.root, f"WIDER_{split}", "images")
        file = os.path.join(opened.root, "wider_face_split", f"wider_face_{split}_bbx_gt.txt")
        parts[split] = draft = Draft(f"{source} ({split})", root, mark="face {}")
        with open(file, encoding="utf-8") as stream:
            lines = [line.strip() for line in stream]
        place = 0
        while place + 1 < len(lines):
            # An image without faces has one line of zeros.
            owner, count = draft.image(lines[place]), max(1, int(lines[place + 1]))
            for k, line in enumerate(lines[place + 2 : place + 2 + count], 1):
                # After the box, per the data's readme: blur, expression, illumination, invalid, occlusion, pose.
                # torchvision uses other names.
                said = [int(word) for word in line.split()]
                x, y, width, height = said[:4]
                if any(said[:4]):
                    draft.box(owner, k, (x, y, x + width, y + height), "face", crowd=said[7] != 0)
            place += 2 + count
    return Drafts(parts, named_classes(parts, folder, findings), RULE)


READERS: Mapping[str, Callable[[str, str, str | None, Findings], Any]] = {
    "VOCDetection": _voc,
    "CocoDetection": _coco,
    "Kitti": _kitti,
    "WIDERFace": _faces,
}
