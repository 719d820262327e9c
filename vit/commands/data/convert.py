"""vitral data convert SRC OUT --to FORMAT: the same images, labels and boxes in another format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from vit.data.open import as_found
from vit.data.split import NO_TEST
from vit.data.write.convert import Target, convert
from vit.data.write.output import Images
from vit.errors import UserError


@dataclass(frozen=True)
class Convert:
    """Write the same images, labels and boxes in another format. SRC is only read."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """What train.py takes as --data."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A new folder."""
    to: Target
    """coco, yolo, voc and csv for boxes, folder for labels, parquet and shards for both."""
    format: str | None = None
    """The format of SRC, where more than one lies there."""
    images: Images = "copy"
    """copy; hardlink takes no space, but a file that is edited in place changes in both; symlink needs SRC to stay."""


def main(arguments: Sequence[str]) -> int:
    args = tyro.cli(Convert, args=arguments, prog="vitral data convert", config=(tyro.conf.FlagCreatePairsOff,))
    if os.path.exists(args.out) and not os.path.isdir(args.out):
        raise UserError(f"{args.out}: is a file. Give a new folder.")
    data, splits = as_found(args.source, args.format)
    notes = convert(data, splits, args.out, args.to, args.images)
    for note in (*data.notes, *notes):
        if note != NO_TEST:  # nothing is reported here
            print(note)
    for split, images in splits.items():
        print(f"{split}: {len(images):,} images -> {args.out}")
    return 0
