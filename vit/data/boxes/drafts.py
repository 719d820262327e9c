"""Turn a box reader's drafts into the data set used for training."""

from __future__ import annotations

from collections.abc import Callable

from vit.data.boxes.draft import ALL, Drafts, settle
from vit.data.check.findings import Findings
from vit.data.request import Request
from vit.data.sets.boxset import BoxFiles, BoxRows
from vit.data.sets.data import DetectionData
from vit.data.split import ALL_TEST, NO_TEST, RULE, hold_out
from vit.errors import UserError, shown


def open_drafts(request: Request, read: Callable[[str, Findings], Drafts]) -> DetectionData:
    """Read, validate and split the images and boxes at the requested path.

    Raises UserError for a source without usable images or without train and, unless the request collects findings, for
    the first error.
    """
    source, seed = request.path, request.seed
    findings = Findings() if request.findings is None else request.findings
    drafts = read(source, findings)
    parts = [split for split in ("train", "val", "test", ALL) if split in drafts.parts]
    sets = {split: settle(drafts.parts[split], drafts.categories, findings) for split in parts}
    notes: list[str] = []
    if request.findings is None:
        findings.raise_errors()
        notes = findings.notes()
    sets = {split: images for split, images in sets.items() if len(images)}
    if not sets:
        raise UserError(f"{source}: no images that can be used. vitral data check {source} tells why.")
    rule = drafts.rule
    if list(sets) == [ALL]:
        rule = ALL_TEST if request.evaluation else rule
        sets = {"test" if request.evaluation else "train": sets[ALL]}
    if "train" not in sets and not request.evaluation:
        raise UserError(f"{source}: has annotations for {shown(list(sets))} but none for train.")
    if "train" in sets and "val" not in sets and seed is not None:
        rule, whole = f"{rule}; {RULE}", sets["train"]
        sets["train"], sets["val"], note = hold_out(whole, seed, source, whole.rarest())
        notes.append(note)
    if "test" not in sets:
        notes.append(NO_TEST)
    notes += [facts(split, images) for split, images in sets.items()]
    return DetectionData.of(sets, source, category_ids=drafts.categories.ids, notes=notes, seed=seed, rule=rule)


def facts(split: str, images: BoxFiles | BoxRows) -> str:
    """One line, such as "train: 48 images, 8 without boxes; 90 boxes, 2 of them crowds"."""
    bare, crowd = int((images.targets == 0).sum()), int(images.rows.crowd.sum())
    line = f"{split}: {len(images):,} images" + (f", {bare:,} without boxes" if bare else "")
    return f"{line}; {len(images.rows.labels):,} boxes" + (f", {crowd:,} of them crowds" if crowd else "")
