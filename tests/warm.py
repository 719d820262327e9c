"""What a run imports on its way, for processes that are forked from one that has all of it: a start costs them no
import."""

import importlib
import os

from vit.tasks.table import TASKS

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

PARTS = ("recipe", "settle", "feed", "build", "evaluate", "report", "predict")
NAMES = (
    "vit",
    "vit.commands.train",
    "vit.data",
    "vit.data.bundled.scenes",
    "vit.training.run",
    *(f"{row.package}.{part}" for row in TASKS.values() for part in PARTS),
    "torch._dynamo",
    "torchmetrics",
    "torchmetrics.functional.classification",
    "torchmetrics.detection",
    "faster_coco_eval",
    "matplotlib.pyplot",
    "scipy.optimize",
    "torch.distributed.fsdp",
)

for name in NAMES:
    importlib.import_module(name)
