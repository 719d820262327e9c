"""`vitral models` and `vitral convert`: the command line of vit.pretrained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vit.errors import UserError


@dataclass(frozen=True)
class Models:
    """List the models whose public weights can be loaded: parameters, FLOPs, input size, licence, source."""

    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*"
    """As in a shell, for example dinov*_s*."""

    def run(self) -> int:
        from vit.pretrained.listing import models

        found = models(self.pattern)
        if not found:
            raise UserError(f"no model matches {self.pattern!r}. `vitral models` lists all.")
        print(f"{'name':<24}{'parameters':>11}{'GFLOPs':>9}{'input':>7}  licence of the weights: sources")
        for m in found:
            size = f"{m.parameters / 1e6:.1f} M"
            where = " ".join(m.sources) or "files only"
            print(f"{m.name:<24}{size:>11}{m.flops / 1e9:>9.1f}{m.image_size:>7}  {m.licence}: {where}")
        return 0


@dataclass(frozen=True)
class Convert:
    """Write a checkpoint's weights as a file of timm, Hugging Face or torchvision."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint folder or a run folder; or public weights (a file, timm:NAME, hf:OWNER/REPO) with --model."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.safetensors")]
    to: Literal["timm", "hf", "torchvision"] = "timm"
    model: str | None = None
    """The name of the model, where CHECKPOINT is a file of public weights."""
    check: bool = False
    """Compare logits with the reference library, and write the difference, the versions and the input into the
    checkpoint's config.json."""

    def run(self) -> int:
        from vit.checkpoint import find_checkpoint, set_config
        from vit.pretrained.export import certificate, save_as
        from vit.pretrained.load import is_public, load

        model = load(self.model, self.checkpoint).model
        save_as(model, self.to, Path(self.out))
        print(f"{self.checkpoint} -> {self.out}, as {self.to} names it")
        if self.check:
            found = certificate(model, self.to)
            print(
                f"largest difference to {found['reference']}: {found['largest_absolute_difference']:.2e} absolute, "
                f"{found['largest_relative_difference']:.2e} relative, on {found['input']}"
            )
            if not is_public(self.checkpoint):
                set_config(find_checkpoint(self.checkpoint), certificate=found)
            if found["largest_relative_difference"] > 1e-4:
                raise UserError(f"{self.out} does not give the same numbers in {self.to}: do not use it.")
        return 0
