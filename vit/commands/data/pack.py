"""Write tar shards from any data, for data that outgrow a folder.

vitral data pack photos shards                   class folders, manifests, Parquet, hf:..., torchvision:...
vitral data pack boxes shards --shard-mb 1024    images with boxes

Images are copied as they are, in a fixed, mixed order, so that other programs may read the shards one after the other.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from vit.commands.cli.options import Positional, parse
from vit.data.labels.shards import FACTS
from vit.data.load.sampling import epoch_order
from vit.data.open import open_data
from vit.data.open_any import has_boxes
from vit.data.open_detection import open_detection
from vit.data.sets.boxset import DetectionData
from vit.data.sets.imageset import Data
from vit.data.sets.rows import Named
from vit.data.split import NO_TEST
from vit.data.store.shard_index import indexes
from vit.data.store.shard_writer import ShardWriter, key_of
from vit.errors import UserError, shown
from vit.images.preprocess import image_size


def main(arguments: Sequence[str]) -> int:
    return pack(parse(Pack, arguments, "vitral data pack"))


@dataclass(frozen=True)
class Pack:
    """Write a data set as tar shards. SRC is only read."""

    source: Annotated[str, Positional("SRC")]
    """A data set, as `vitral train` takes it with --data."""
    out: Annotated[str, Positional("OUT")]
    """New or empty folder for the shards."""
    shard_mb: int = 256
    """Maximum size of a shard, in MB (1e6 bytes)."""
    task: Literal["auto", "classification", "detection"] = "auto"
    """What the labels are for; auto: detection if there are boxes."""
    format: str | None = None
    """Format of SRC, where the folder could be read in several. Default: recognized from the files."""
    seed: int = 0
    """Seed of the order, and of the validation split if SRC has none."""


def pack(options: Pack) -> int:
    """0, or 1 where images could not be read and were left out. Raises UserError for a source that cannot be opened."""
    if options.shard_mb < 1:
        raise UserError(f"--shard-mb must be at least 1, got {options.shard_mb}.")
    if os.path.isdir(options.out) and os.listdir(options.out):
        raise UserError(f"{options.out}: is not empty. Give a folder for the shards alone.")
    # What is there under the name OUT is whole.
    folder = f"{os.path.normpath(options.out)}.partial"
    if os.path.exists(folder):
        raise UserError(f"{folder}: is left over from a run that did not end. Remove it.")
    data, facts = _opened(options)
    for note in data.notes:
        if note != NO_TEST:  # nothing is reported here
            print(note)
    os.makedirs(folder)
    try:
        bad = write_shards(data.splits(), facts, folder, shard_mb=options.shard_mb, seed=options.seed)
    except NoImage as error:
        shutil.rmtree(folder)
        raise UserError(f"{options.source}: {error}") from None
    os.replace(folder, options.out)
    if bad:
        print(f"Warning: {len(bad)} images could not be read and were left out: {shown(bad)}")
    print(f"vitral train {'detect' if facts['task'] == 'detection' else 'folder'} --data {options.out}")
    return 1 if bad else 0


class NoImage(UserError):
    """None of the images of a split can be read."""


def write_shards(
    splits: Mapping[str, Any], facts: Mapping[str, Any], folder: str, *, shard_mb: int = Pack.shard_mb, seed: int = 0
) -> list[str]:
    """Shards of all splits, and dataset.json, which holds the facts, into an empty folder; what could not be read.

    Raises NoImage.
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
        # So that the first run finds the index, and a shard that cannot be read is found now.
        samples = sum(len(index.ends) for index in indexes(folder, writer.files).values())
        written[split] = {"images": samples, "shards": len(writer.files)}
        size = sum(os.path.getsize(os.path.join(folder, file)) for file in writer.files)
        print(f"{split}: {samples:,} images in {len(writer.files)} shards, {size / 1e6:,.1f} MB")
    with open(os.path.join(folder, FACTS), "w", encoding="utf-8") as file:
        json.dump({**facts, "splits": written}, file, ensure_ascii=False, indent=1)
    return bad


def _opened(options: Pack) -> tuple[Any, dict[str, Any]]:
    """The data, and what dataset.json says of them all."""
    boxes = options.task == "detection" or (options.task == "auto" and has_boxes(options.source, options.format))
    opened = open_detection if boxes else open_data
    data = opened(options.source, seed=options.seed, format=options.format)
    return data, facts_for(data)


def facts_for(data: Data | DetectionData) -> dict[str, Any]:
    """What dataset.json says of all splits."""
    if isinstance(data, DetectionData):
        return {"task": "detection", "classes": list(data.classes), "category_ids": list(data.category_ids)}
    return {"task": "classification", "classes": list(data.classes), "multilabel": data.multilabel}


def _label(images: Any, i: int, content: bytes, facts: Mapping[str, Any]) -> dict[str, bytes]:
    """The part of a sample that says what is in its image."""
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
