"""`vitral data convert SRC OUT --to FORMAT`: write the same images, labels and boxes in another format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.data.open import as_found
from vit.data.split import NO_TEST
from vit.data.write.convert import Target, convert
from vit.data.write.output import Images
from vit.errors import UserError


def main(arguments: Sequence[str]) -> int:
    return parse(Convert, arguments, "vitral data convert").run()


@dataclass(frozen=True)
class Convert:
    """Write the same images, labels and boxes in another format. SRC is only read."""

    source: Annotated[str, Positional("SRC")]
    """A data set, as `vitral train` takes it with --data."""
    out: Annotated[str, Positional("OUT")]
    """New folder."""
    to: Target
    """Format of OUT: coco, yolo, voc or csv for boxes, folder for labels, parquet or shards for both."""
    format: str | None = None
    """Format of SRC, where the folder could be read in more than one format. Default: recognized from the files."""
    images: Images = "copy"
    """How images get into OUT: copy; hardlink, which takes no space, but editing a file in place changes both; symlink,
    which needs SRC to stay."""

    def run(self) -> int:
        if os.path.exists(self.out) and not os.path.isdir(self.out):
            raise UserError(f"{self.out} is a file. Name a new folder.")
        data, splits = as_found(self.source, self.format)
        notes = convert(data, splits, self.out, self.to, self.images)
        for note in (*data.notes, *notes):
            if note != NO_TEST:  # nothing is evaluated here
                print(note)
        for split, images in splits.items():
            print(f"{split}: {len(images):,} images -> {self.out}")
        return 0
