"""`vitral models`: print `vit.models()` as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.errors import UserError


def main(arguments: Sequence[str]) -> int:
    return parse(Models, arguments, "vitral models").run()


@dataclass(frozen=True)
class Models:
    """List the models whose public weights can be loaded: parameters, FLOPs, input size, license, source."""

    pattern: Annotated[str, Positional("PATTERN")] = "*"
    """Names to list, with * and ? as in a shell: dinov*_s*."""

    def run(self) -> int:
        from vit.pretrained.registry.listing import models

        found = models(self.pattern)
        if not found:
            raise UserError(f"No model matches {self.pattern!r}. `vitral models` lists them all.")
        print(f"{'name':<24}{'parameters':>11}{'GFLOPs':>9}{'input':>7}  license of the weights: sources")
        for m in found:
            size = f"{m.parameters / 1e6:.1f} M"
            where = " ".join(m.sources) or "files only"
            print(f"{m.name:<24}{size:>11}{m.flops / 1e9:>9.1f}{m.image_size:>7}  {m.license}: {where}")
        return 0
