"""How a detector scans an image. Imports no torch, so that commands can list the options at once."""

from __future__ import annotations

from dataclasses import dataclass

from vit.errors import UserError


@dataclass(frozen=True)
class Scan:
    """Options of a scan. The default is one pass over the whole image, as in training."""

    tile: int | None = None
    """Also run on tiles of this side, in pixels of the image; for small objects in large images."""
    overlap: float = 0.2
    """Fraction of a tile's side that overlaps its neighbor; objects up to this size are whole in one of them."""
    tta: bool = False
    """Test-time augmentation: run at several sizes and mirrored, and fuse the boxes."""
    flip: bool | None = None
    """Use mirrored views in tta; None: only if training mirrored (a mirrored 3 is not a 3)."""
    nms: float | None = None
    """Drop a box if a better one of its class overlaps it by more than this IoU."""

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise UserError(f"tile, a side in pixels, must be at least 1, got {self.tile}.")
        if not 0 <= self.overlap < 1:
            raise UserError(f"overlap must be at least 0 and below 1, got {self.overlap}.")
        if self.nms is not None and not 0 <= self.nms <= 1:
            raise UserError(f"nms must be an IoU in 0..1, got {self.nms}.")
