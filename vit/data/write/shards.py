"""Writes images with labels or boxes as tar shards."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from vit.data.labels.shards import FACTS
from vit.data.load.sampling import epoch_order
from vit.data.sets.data import Data, DetectionData
from vit.data.sets.rows import Named
from vit.data.store.shard_index import indexes
from vit.data.store.shard_writer import ShardWriter, key_of
from vit.errors import UserError
from vit.images.preprocess import image_size

SHARD_MB = 256


class NoImage(UserError):
    """No image of a split can be read."""


def write_shards(
    splits: Mapping[str, Any], facts: Mapping[str, Any], folder: str, *, shard_mb: int = SHARD_MB, seed: int = 0
) -> list[str]:
    """Write shards of all splits, and dataset.json with the facts, into an empty folder; returns the errors of
    unreadable images. Raises NoImage if no image of a split can be read.
    """
    bad: list[str] = []
    written: dict[str, Any] = {}
    for split, images in splits.items():
        with ShardWriter(folder, split, shard_mb * 10**6) as writer:
            for number, i in enumerate(epoch_order(len(images), seed, 0).tolist()):
                try:
                    ending, content = images.file(i)
                    parts = {ending: content, **_label(images, i, content, facts)}
                except UserError as error:
                    bad.append(str(error))
                    continue
                writer.add(key_of(number, os.fsdecode(images.key(i))), parts)
        if not writer.files:
            raise NoImage(f"none of the images of {split} can be read. The first: {bad[0]}")
        # Written now, so that the first run finds the index, and an unreadable shard is detected early.
        samples = sum(len(index.ends) for index in indexes(folder, writer.files).values())
        written[split] = {"images": samples, "shards": len(writer.files)}
        size = sum(os.path.getsize(os.path.join(folder, file)) for file in writer.files)
        print(f"{split}: {samples:,} images in {len(writer.files)} shards, {size / 1e6:,.1f} MB")
    with open(os.path.join(folder, FACTS), "w", encoding="utf-8") as file:
        json.dump({**facts, "splits": written}, file, ensure_ascii=False, indent=1)
    return bad


def facts_for(data: Data | DetectionData) -> dict[str, Any]:
    """The contents of dataset.json that apply to all splits."""
    if isinstance(data, DetectionData):
        return {"task": "detection", "classes": list(data.classes), "category_ids": list(data.category_ids)}
    return {"task": "classification", "classes": list(data.classes), "multilabel": data.multilabel}


def _label(images: Any, i: int, content: bytes, facts: Mapping[str, Any]) -> dict[str, bytes]:
    """The part of a sample that contains its label or boxes."""
    if facts["task"] == "detection":
        return {".json": json.dumps(_boxes(images, i, content), ensure_ascii=False).encode()}
    if images.multilabel:
        names = [name for name, here in zip(images.classes, images.targets[i].tolist(), strict=True) if here]
        return {".json": json.dumps({"labels": names}, ensure_ascii=False).encode()}
    return {".cls": str(int(images.targets[i])).encode()}


def _boxes(images: Any, i: int, content: bytes) -> dict[str, Any]:
    height, width = image_size(Named(content, images.name(i)))
    truth = images.annotation(i)
    return {
        "width": width,
        "height": height,
        "image_id": images.image_id(i),
        "boxes": truth.boxes.tolist(),
        "labels": [images.classes[k] for k in truth.labels.tolist()],
        "crowd": truth.crowd.tolist(),
        "area": truth.area.tolist(),
    }
