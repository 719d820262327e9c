"""Reading, augmenting and feeding images. Not part of the wheel: train.py and eval.py join it with `vit`.

Names are imported when they are first used: the commands of `python -m datasets` need no torch, and their worker
processes start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# At once, since the function has the name of its module.
from datasets.survey import Survey as Survey
from datasets.survey import survey as survey

if TYPE_CHECKING:
    from datasets.features import FeatureBatches as FeatureBatches
    from datasets.features import Features as Features
    from datasets.imageset import Data as Data
    from datasets.imageset import ImageSet as ImageSet
    from datasets.loader import Batch as Batch
    from datasets.loader import eval_loader as eval_loader
    from datasets.loader import train_loader as train_loader
    from datasets.mixing import Mix as Mix
    from datasets.open import open_data as open_data
    from datasets.open import reopen as reopen
    from datasets.transforms import AUGMENTS as AUGMENTS
    from datasets.transforms import Augment as Augment
    from datasets.transforms import Pipeline as Pipeline
    from datasets.transforms import named_augment as named_augment

_HOMES = {
    "FeatureBatches": "features", "Features": "features", "Data": "imageset", "ImageSet": "imageset",
    "Batch": "loader", "eval_loader": "loader", "train_loader": "loader", "Mix": "mixing", "open_data": "open",
    "reopen": "open", "AUGMENTS": "transforms", "Augment": "transforms",
    "Pipeline": "transforms", "named_augment": "transforms",
}  # fmt: skip
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'datasets' has no attribute {name!r}")
    value = getattr(import_module(f"datasets.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
