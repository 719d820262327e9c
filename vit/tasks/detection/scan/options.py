"""How a detector is to go over an image. Without torch, so that commands can name the options at once."""

from __future__ import annotations

from dataclasses import dataclass

from vit.errors import UserError


@dataclass(frozen=True)
class Scan:
    """How to look for objects. The default is one look at the whole image, as in training."""

    tile: int | None = None
    """Also look at tiles of this side, in pixels of the image; for objects that are small in large images."""
    overlap: float = 0.2
    """Share of a tile's side that neighbors have in common; objects up to this size are never cut in both."""
    tta: bool = False
    """Look at every input at several sizes, and mirrored, and fuse the boxes."""
    flip: bool | None = None
    """Mirrored views in tta; None: if training mirrored (a mirrored 3 is no 3)."""
    nms: float | None = None
    """Leave out a box that a better one of its class overlaps by more than this IoU."""

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise UserError(f"tile is the side of a square in pixels, at least 1, not {self.tile}.")
        if not 0 <= self.overlap < 1:
            raise UserError(f"overlap is a share of a tile's side from 0 up to but not 1, not {self.overlap}.")
        if self.nms is not None and not 0 <= self.nms <= 1:
            raise UserError(f"nms is an IoU in 0..1, not {self.nms}.")
