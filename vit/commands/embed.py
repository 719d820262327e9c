"""`vitral embed`: save the features of images for search, clustering or a custom classifier."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def main(arguments: Sequence[str]) -> int:
    return parse(Embed, arguments, "vitral embed").run()


@dataclass(frozen=True)
class Embed:
    """Save the features of images as an .npz file.

    It holds `features`, float32 [n, D] or [n, h, w, D]; `files`, the n names; and `made`, a JSON text that says how
    they were computed. The exit code is 1 if some images cannot be read, which are left out, and 2 if none can or the
    command is wrong."""

    checkpoint: Annotated[str, Positional("CHECKPOINT")]
    """A run folder, a checkpoint folder, or public weights: a file, timm:NAME or hf:OWNER/REPO."""
    images: Annotated[tuple[str, ...], Positional("IMAGE|FOLDER...")]
    """Images, and folders, which are searched with everything below them."""
    out: Path
    """File to write, NAME.npz."""
    features: Literal["pooled", "patches"] = "pooled"
    """pooled: one vector per image, as the head sees it; patches: one vector per patch."""
    model: str | None = None
    """Name of the model if CHECKPOINT is a file of public weights; `vitral models` lists them. Default: what CHECKPOINT
    says."""
    image_size: int | None = None
    """Side of the square input, in pixels; a multiple of the patch size. Default: the model's own."""
    batch_size: int = 32
    """Images per batch."""
    device: str = "auto"
    """Device to compute on: auto, cpu, cuda, cuda:1 or mps."""

    def run(self) -> int:
        if self.batch_size < 1:
            raise UserError("--batch-size must be at least 1.")
        if self.out.suffix != ".npz":
            raise UserError(f"--out {self.out}: Features are written as .npz. Call it {self.out.stem or 'NAME'}.npz.")
        if not self.out.absolute().parent.is_dir():
            raise UserError(f"--out {self.out}: There is no folder {self.out.absolute().parent}. Make it first.")

        from vit.predict.files import exit_code, find_images

        files = find_images(self.images)  # before torch, so that a misspelled path is reported at once

        from vit.predict.progress import clear, progress
        from vit.tasks.classification.features import how_made, open_encoder, write_features
        from vit.tasks.classification.predict import Unreadable

        encoder, notes = open_encoder(self.checkpoint, model=self.model, image_size=self.image_size, device=self.device)
        for note in notes:
            print(note, file=sys.stderr)
        tick, unreadable = progress(len(files)), 0

        def rows() -> Iterator[tuple[str, Tensor]]:
            nonlocal unreadable
            forward = encoder.features if self.features == "pooled" else encoder.patch_features
            for done, result in enumerate(encoder.each(forward, files, batch_size=self.batch_size), start=1):
                if isinstance(result, Unreadable):
                    unreadable += 1
                    clear()
                    print(f"Error: {result.reason}", file=sys.stderr)
                else:
                    yield str(result[1]), result[0]
                tick(done)

        made = how_made(encoder, self.features, weights=self.checkpoint, name=self.model)
        shape = write_features(self.out, rows(), made)
        if shape:
            print(f"{shape[0]} images -> {self.out}: {self.features} features {list(shape)}")
        return exit_code(unreadable, len(files))
