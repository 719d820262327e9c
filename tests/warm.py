"""What a run of train.py imports on its way, for processes that are forked from one that has all of it: a start costs
them no import."""

import importlib
import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

NAMES = (
    "vit.commands.train",
    "vit.training.run_detector",
    "vit.training.parts",
    "vit.training.detector_parts",
    "vit.tasks.detection.evaluate",
    "vit.data",
    "vit.data.load.loader",
    "vit.data.load.box_reader",
    "vit.data.augment.multiscale",
    "vit.data.open",
    "vit.data.bundled.scenes",
    "vit.data.augment.images",
    "vit.data.augment.boxes",
    "vit.data.load.workers",
    "vit",
    "vit.training.run",
    "vit.tasks.classification.build",
    "vit.runs.checkpoint",
    "vit.training.engine",
    "vit.tasks.detection.build",
    "vit.detector",
    "vit.tasks.classification.report",
    "vit.tasks.classification.outputs",
    "vit.tasks.detection.report",
    "vit.tasks.classification.predict",
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
