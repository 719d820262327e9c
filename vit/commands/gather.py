"""`vitral gather`: one safetensors file of a sharded checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vit.errors import UserError


@dataclass(frozen=True)
class Gather:
    """Make one checkpoint, with a safetensors file, of a sharded one."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """A run folder, or one of its checkpoints."""
    out: Annotated[str, tyro.conf.Positional]
    """The new checkpoint folder."""

    def run(self) -> int:
        from vit.runs.checkpoint import SHARDS, load_config, save_checkpoint, verify
        from vit.training.sharded import weights_in

        place = Path(self.checkpoint).expanduser()
        folder = next((f for f in (place, place / "checkpoints" / "last") if (f / SHARDS).is_dir()), None)
        if folder is None:
            raise UserError(f"{place} holds no sharded checkpoint (a folder {SHARDS} in it, or in its last one).")
        if Path(self.out).exists():
            raise UserError(f"{self.out} exists already: name a new folder.")
        verify(folder)
        save_checkpoint(Path(self.out), weights_in(folder / SHARDS), load_config(folder))
        print(f"{self.out} holds all weights in one file")
        return 0
