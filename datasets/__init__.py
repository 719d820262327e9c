"""Reading, augmenting and feeding images. Not part of the wheel: train.py and eval.py join it with `vit`."""

from __future__ import annotations

from datasets.imageset import Data, ImageSet
from datasets.loader import Batch, eval_loader, train_loader
from datasets.open import open_data
from datasets.transforms import AUGMENTS, Augment, Pipeline

__all__ = [
    "AUGMENTS",
    "Augment",
    "Batch",
    "Data",
    "ImageSet",
    "Pipeline",
    "eval_loader",
    "open_data",
    "train_loader",
]
