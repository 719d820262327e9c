"""From a path or a name to splits and batches. Knows neither models nor tasks.

Names are imported on first use, so the commands of `vitral data` start without torch, and so do their workers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported eagerly: the function has the name of its module.
from vit.data.survey import Survey as Survey
from vit.data.survey import survey as survey

if TYPE_CHECKING:
    from vit.data.augment.batches import Mix as Mix
    from vit.data.augment.images import AUGMENTS as AUGMENTS
    from vit.data.augment.images import Augment as Augment
    from vit.data.augment.images import Pipeline as Pipeline
    from vit.data.augment.images import named_augment as named_augment
    from vit.data.load.label_reader import Batch as Batch
    from vit.data.load.label_reader import LabelReader as LabelReader
    from vit.data.load.loader import LoaderOptions as LoaderOptions
    from vit.data.load.loader import eval_loader as eval_loader
    from vit.data.load.loader import train_loader as train_loader
    from vit.data.open import open_data as open_data
    from vit.data.open import reopen as reopen
    from vit.data.sets.data import Data as Data
    from vit.data.sets.data import DetectionData as DetectionData
    from vit.data.sets.features import FeatureBatches as FeatureBatches
    from vit.data.sets.features import Features as Features
    from vit.data.sets.imageset import ImageSet as ImageSet

_HOMES = {
    "FeatureBatches": "sets.features",
    "Features": "sets.features",
    "Data": "sets.data",
    "DetectionData": "sets.data",
    "ImageSet": "sets.imageset",
    "Batch": "load.label_reader",
    "LabelReader": "load.label_reader",
    "LoaderOptions": "load.loader",
    "eval_loader": "load.loader",
    "train_loader": "load.loader",
    "Mix": "augment.batches",
    "open_data": "open",
    "reopen": "open",
    "AUGMENTS": "augment.images",
    "Augment": "augment.images",
    "Pipeline": "augment.images",
    "named_augment": "augment.images",
}
__all__ = [
    "AUGMENTS",
    "Augment",
    "Batch",
    "Data",
    "DetectionData",
    "FeatureBatches",
    "Features",
    "ImageSet",
    "LabelReader",
    "LoaderOptions",
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vit.data' has no attribute {name!r}")
    value = getattr(import_module(f"vit.data.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
