"""`vitral models` and `vitral convert`: the command line of vit.pretrained."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vit.errors import UserError


@dataclass(frozen=True)
class Models:
    """List the models whose public weights can be loaded: parameters, FLOPs, input size, license, source."""

    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*"
    """As in a shell, for example dinov*_s*."""

    def run(self) -> int:
        from vit.pretrained.registry.listing import models

        found = models(self.pattern)
        if not found:
            raise UserError(f"no model matches {self.pattern!r}. `vitral models` lists all.")
        print(f"{'name':<24}{'parameters':>11}{'GFLOPs':>9}{'input':>7}  license of the weights: sources")
        for m in found:
            size = f"{m.parameters / 1e6:.1f} M"
            where = " ".join(m.sources) or "files only"
            print(f"{m.name:<24}{size:>11}{m.flops / 1e9:>9.1f}{m.image_size:>7}  {m.license}: {where}")
        return 0


@dataclass(frozen=True)
class Convert:
    """Write a checkpoint's weights as a file of timm, Hugging Face or torchvision."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint folder or a run folder; or public weights (a file, timm:NAME, hf:OWNER/REPO) with --model."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.safetensors")]
    """The file to write; with --to hf also a folder, with the config.json that `from_pretrained` reads."""
    to: Literal["timm", "hf", "torchvision"] = "timm"
    model: str | None = None
    """The name of the model, where CHECKPOINT is a file of public weights."""
    check: bool = False
    """Compare logits with the reference library, and write the difference, the versions and the input into the
    checkpoint's config.json."""

    def run(self) -> int:
        from vit.pretrained.convert.certificate import LIMIT, certificate, why_not
        from vit.pretrained.convert.export import exported, save_as, save_folder
        from vit.pretrained.load import is_public, load
        from vit.runs.checkpoint import find_checkpoint, set_config

        out = Path(self.out)
        as_folder = self.to == "hf" and not out.suffix
        if not as_folder and out.suffix != ".safetensors":
            more = ", or OUT (a folder with its config.json)" if self.to == "hf" else ""
            raise UserError(f"{out}: name the output OUT.safetensors{more}.")
        if not out.absolute().parent.is_dir():
            raise UserError(f"{out}: there is no folder {out.absolute().parent}. Make it first.")
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
