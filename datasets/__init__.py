"""Reading, augmenting and feeding images. Not part of the wheel: train.py and eval.py join it with `vit`."""

from __future__ import annotations

from datasets.features import FeatureBatches, Features
from datasets.imageset import Data, ImageSet
from datasets.loader import Batch, eval_loader, train_loader
from datasets.mixing import Mix
from datasets.open import open_data, reopen
from datasets.survey import Survey, survey
from datasets.transforms import AUGMENTS, Augment, Pipeline, named_augment

__all__ = [
    "AUGMENTS",
    "Augment",
    "Batch",
    "Data",
    "FeatureBatches",
    "Features",
    "ImageSet",
    "Mix",
    "Pipeline",
    "Survey",
    "eval_loader",
    "named_augment",
    "open_data",
    "reopen",
    "survey",
    "train_loader",
]
