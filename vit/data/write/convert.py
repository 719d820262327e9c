"""Writes a data set in another format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vit.data.sets.data import Data, DetectionData
from vit.data.write.boxes import WRITERS, Job
from vit.data.write.labels import write_folder
from vit.data.write.output import Images, new_folder
from vit.data.write.parquet import write_parquet
from vit.data.write.shards import facts_for, write_shards
from vit.errors import UserError

Target = Literal["coco", "yolo", "voc", "csv", "folder", "parquet", "shards"]
DETECTION = ("coco", "yolo", "voc", "csv", "parquet", "shards")
CLASSIFICATION = ("folder", "parquet", "shards")


def convert(
    data: Data | DetectionData, splits: Mapping[str, Any], out: str, to: Target, images: Images = "copy"
) -> list[str]:
    """Write splits of the data into the new folder `out`; returns notes on what was left out.

    The source is only read; `out` appears when it is complete.

    Raises UserError if the format cannot store such data, or `out` exists.
    """
    boxes = isinstance(data, DetectionData)
    possible = DETECTION if boxes else CLASSIFICATION
    if to not in possible:
        kind = "boxes" if boxes else "labels but no boxes"
        raise UserError(f"{data.source}: these images have {kind}; they can be converted to {', '.join(possible)}.")
    ids = data.category_ids if isinstance(data, DetectionData) else None
    with new_folder(out, data.source) as folder:
        if ids is not None and to in WRITERS:
            return WRITERS[to](Job(splits, ids, folder, images))
        if to == "parquet":
            return write_parquet(splits, folder, ids)
        if to == "shards":
            return [f"Left out: {reason}" for reason in write_shards(splits, facts_for(data), folder)]
        return write_folder(splits, folder, images)
