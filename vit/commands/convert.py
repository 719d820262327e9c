"""`vitral convert`: write a checkpoint's weights under another library's names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.errors import UserError


def main(arguments: Sequence[str]) -> int:
    return parse(Convert, arguments, "vitral convert").run()


@dataclass(frozen=True)
class Convert:
    """Write a checkpoint's weights as a file of timm, Hugging Face or torchvision."""

    checkpoint: Annotated[str, Positional("CHECKPOINT")]
    """A run folder, a checkpoint folder, or public weights: a file, timm:NAME or hf:OWNER/REPO."""
    out: Annotated[str, Positional("OUT.safetensors")]
    """File to write; with --to hf also a folder, with the config.json that `from_pretrained` reads."""
    to: Literal["timm", "hf", "torchvision"] = "timm"
    """Library whose names the file uses."""
    model: str | None = None
    """Name of the model if CHECKPOINT is a file of public weights; `vitral models` lists them. Default: what CHECKPOINT
    says."""
    check: bool = False
    """Compare the logits with the reference library's, and write the difference, the versions and the input into the
    config.json of the checkpoint."""

    def run(self) -> int:
        from vit.pretrained.convert.certificate import LIMIT, certificate, why_not
        from vit.pretrained.convert.export import exported, save_as, save_folder
        from vit.pretrained.load import is_public, load
        from vit.runs.checkpoint import find_checkpoint, set_config

        out = Path(self.out)
        as_folder = self.to == "hf" and not out.suffix
        if not as_folder and out.suffix != ".safetensors":
            more = ", or OUT (a folder with its config.json)" if self.to == "hf" else ""
            raise UserError(f"{out}: Name the output OUT.safetensors{more}.")
        if not out.absolute().parent.is_dir():
            raise UserError(f"{out}: There is no folder {out.absolute().parent}. Make it first.")
        loaded = load(self.model, self.checkpoint)
        for note in loaded.notes:
            print(note, file=sys.stderr)
        found = exported(loaded.model, self.to)
        if as_folder:
            save_folder(found, out, loaded.preprocess, loaded.config.get("classes", ()))
        else:
            save_as(found, out)
        print(f"{self.checkpoint} -> {out}, as {self.to} names it, for {found.made_for}")
        if self.check:
            told = certificate(loaded.model, self.to)
            print(
                f"largest difference to {told['reference']}: {told['largest_absolute_difference']:.2e} absolute, "
                f"{told['largest_relative_difference']:.2e} relative, {told['compared']} of {told['input']}"
            )
            if not is_public(self.checkpoint):
                set_config(find_checkpoint(self.checkpoint), certificate=told)
            if not told["largest_relative_difference"] <= LIMIT:
                raise UserError(
                    f"{out} does not give the same numbers in {self.to}.{why_not(loaded.model.config, self.to)}"
                )
        return 0
