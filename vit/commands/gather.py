"""`vitral gather`: merge a sharded checkpoint into one safetensors file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.errors import UserError


def main(arguments: Sequence[str]) -> int:
    return parse(Gather, arguments, "vitral gather").run()


@dataclass(frozen=True)
class Gather:
    """Merge a sharded checkpoint into one with a single safetensors file."""

    checkpoint: Annotated[str, Positional("CHECKPOINT")]
    """A run folder (its last checkpoint), or one of its checkpoints."""
    out: Annotated[str, Positional("OUT")]
    """New checkpoint folder."""

    def run(self) -> int:
        from vit.runs.checkpoint import SHARDS, load_config, save_checkpoint, verify
        from vit.training.sharded import weights_in

        place = Path(self.checkpoint).expanduser()
        folder = next((f for f in (place, place / "checkpoints" / "last") if (f / SHARDS).is_dir()), None)
        if folder is None:
            raise UserError(f"{place} holds no sharded checkpoint (a folder {SHARDS} in it, or in its last one).")
        if Path(self.out).exists():
            raise UserError(f"{self.out} already exists. Name a new folder.")
        verify(folder)
        save_checkpoint(Path(self.out), weights_in(folder / SHARDS), load_config(folder))
        print(f"{self.out} holds all weights in one file.")
        return 0
