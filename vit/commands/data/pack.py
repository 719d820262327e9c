"""`vitral data pack`: write tar shards from any data, for data sets too large for a folder.

vitral data pack photos shards                   class folders, manifests, Parquet, hf:..., torchvision:...
vitral data pack boxes shards --shard-mb 1024    images with boxes

Images are copied unchanged, in a fixed shuffled order, so that other programs can read the shards sequentially.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.data.open import has_boxes, open_data
from vit.data.split import NO_TEST
from vit.data.write.shards import SHARD_MB, NoImage, facts_for, write_shards
from vit.errors import UserError, shown


def main(arguments: Sequence[str]) -> int:
    return pack(parse(Pack, arguments, "vitral data pack"))


@dataclass(frozen=True)
class Pack:
    """Write a data set as tar shards. SRC is only read."""

    source: Annotated[str, Positional("SRC")]
    """A data set, as `vitral train` takes it with --data."""
    out: Annotated[str, Positional("OUT")]
    """New or empty folder for the shards."""
    shard_mb: int = SHARD_MB
    """Maximum size of a shard, in MB (1e6 bytes)."""
    task: Literal["auto", "classification", "detection"] = "auto"
    """What the labels are for; auto: detection if there are boxes."""
    format: str | None = None
    """Format of SRC, where the folder could be read in more than one format. Default: recognized from the files."""
    seed: int = 0
    """Seed of the order, and of the validation split if SRC has none."""


def pack(options: Pack) -> int:
    """0, or 1 if unreadable images were left out. Raises UserError for a source that cannot be opened."""
    if options.shard_mb < 1:
        raise UserError(f"--shard-mb must be at least 1, got {options.shard_mb}.")
    if os.path.isdir(options.out) and os.listdir(options.out):
        raise UserError(f"{options.out} is not empty. Name a new folder for the shards.")
    # A folder named OUT is always complete.
    folder = f"{os.path.normpath(options.out)}.partial"
    if os.path.exists(folder):
        raise UserError(f"{folder} is left over from a run that did not end. Remove it.")
    data, facts = _opened(options)
    for note in data.notes:
        if note != NO_TEST:  # nothing is evaluated here
            print(note)
    os.makedirs(folder)
    try:
        bad = write_shards(data.splits(), facts, folder, shard_mb=options.shard_mb, seed=options.seed)
    except NoImage as error:
        shutil.rmtree(folder)
        raise UserError(f"{options.source}: {error}") from None
    os.replace(folder, options.out)
    if bad:
        print(f"Warning: {len(bad)} images could not be read and were left out: {shown(bad)}.")
    kind = "detect" if facts["task"] == "detection" else "folder"
    print(f"Train on it: vitral train {kind} --data {shlex.quote(options.out)}")
    return 1 if bad else 0


def _opened(options: Pack) -> tuple[Any, dict[str, Any]]:
    """The data, and the contents of dataset.json."""
    boxes = options.task == "detection" or (options.task == "auto" and has_boxes(options.source, options.format))
    kind = "boxes" if boxes else "labels"
    data = open_data(options.source, kind=kind, seed=options.seed, format=options.format)
    return data, facts_for(data)
