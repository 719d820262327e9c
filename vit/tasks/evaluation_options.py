"""The options of `vitral eval` and `vit.evaluate`. Imports no torch, so that help appears at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from vit.errors import UserError, nearest, shown


@dataclass(frozen=True)
class EvaluationOptions:
    """How a checkpoint is evaluated."""

    split: Literal["train", "val", "test"] | None = None
    """Split to evaluate. Default: test, or val if the data has no test split."""
    tta: bool = False
    """Use test-time augmentation: several scales, and mirror images if training used them. A classifier's averaged
    probabilities are reported beside the plain metrics; a detector's fused boxes replace them."""
    tta_flip: Literal["auto", "yes", "no"] = "auto"
    """Use mirror images in --tta; auto: only if training mirrored images."""
    knn: int | None = None
    """Also classify by this many nearest neighbors among the features of the train split. Required for public weights,
    which have no head for these classes. Default: no nearest neighbors."""
    tile: int | None = None
    """Also run a detector on tiles of this side, in pixels of the image. Default: no tiles."""
    overlap: float | None = None
    """Fraction of a tile's side that overlaps the next tile. Default: 0.2."""
    nms: float | None = None
    """Drop a detector's box if a better box of its class overlaps it by more than this IoU. Default: keep all boxes."""
    batch_size: int = 64
    """Images per batch."""
    workers: int = 0
    """Processes that read images; 0 reads them in the main process."""
    device: str = "auto"
    """Device to compute on: auto, cpu, cuda, cuda:1 or mps."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0 or (self.knn is not None and self.knn < 1):
            raise UserError("--batch-size and --knn must be at least 1, --workers at least 0.")
        if self.knn is not None and self.split == "train":
            raise UserError("--knn searches the train split, where each image would find itself. Use --split test.")

    @classmethod
    def names(cls) -> list[str]:
        return [each.name for each in fields(cls)]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> EvaluationOptions:
        """Options from a mapping by name. Raises UserError for an unknown name."""
        names = cls.names()
        for name in values:
            if name not in names:
                raise UserError(f"There is no option {name!r}.{nearest(name, names)} Options: {shown(names, 20)}.")
        return cls(**values)

    def refuse(self, whose: str, task: str, **used: object) -> None:
        """Raise UserError if an option for another kind of model is in use."""
        for name, value in used.items():
            if value is not None and value is not False:
                raise UserError(f"--{name.replace('_', '-')} is for {task}. Leave it out: {whose} is not one.")
