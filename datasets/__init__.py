"""Reading, augmenting and feeding images. Not part of the wheel: train.py and eval.py join it with `vit`."""

from __future__ import annotations

from datasets.box_loader import BoxBatch, box_eval_loader, box_train_loader
from datasets.box_transforms import BOX_AUGMENTS, BoxAugment, BoxPipeline, named_box_augment
from datasets.boxset import Annotation, BoxSet, DetectionData
from datasets.imageset import Data, ImageSet
from datasets.loader import Batch, eval_loader, train_loader
from datasets.mixing import Mix
from datasets.open import open_data, reopen
from datasets.open_detection import open_detection, reopen_detection
from datasets.survey import Survey, survey
from datasets.transforms import AUGMENTS, Augment, Pipeline, named_augment

__all__ = [
    "AUGMENTS",
    "BOX_AUGMENTS",
    "Annotation",
    "Augment",
    "Batch",
    "BoxAugment",
    "BoxBatch",
    "BoxPipeline",
    "BoxSet",
    "Data",
    "DetectionData",
    "ImageSet",
    "Mix",
    "Pipeline",
    "Survey",
    "box_eval_loader",
    "box_train_loader",
    "eval_loader",
    "named_augment",
    "named_box_augment",
    "open_data",
    "open_detection",
    "reopen",
    "reopen_detection",
    "survey",
    "train_loader",
]
