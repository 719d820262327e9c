"""What a run of train.py imports on its way, for processes that are forked from one that has all of it: a start costs
them no import."""

import importlib
import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

NAMES = (
    "train", "train_detector", "train_parts", "train_detector_parts", "eval_detector", "datasets", "datasets.loader",
    "datasets.box_loader", "datasets.multiscale", "datasets.open_detection", "datasets.scenes", "datasets.transforms",
    "datasets.box_transforms", "datasets.workers", "vit", "vit.training", "vit.build", "vit.checkpoint", "vit.engine",
    "vit.detection_build", "vit.detector", "vit.report", "vit.evaluate", "vit.detection_report", "vit.predict",
    "torch._dynamo", "torchmetrics", "torchmetrics.functional.classification", "torchmetrics.detection",
    "faster_coco_eval", "matplotlib.pyplot", "scipy.optimize", "torch.distributed.fsdp",
)  # fmt: skip

for name in NAMES:
    importlib.import_module(name)
