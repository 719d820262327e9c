"""Recipes of detection: every option with its default.

`settle` chooses fields that are None from the data and reports the choice; the run folder's config.yaml stores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vit.errors import UserError
from vit.tasks.options import RunOptions

USUAL_BATCH = 16


@dataclass(frozen=True)
class Recipe(RunOptions):
    """Train an object detector."""

    GROUPS: ClassVar[dict[str, str]] = {
        "model": "encoder patch_size queries groups",
        "augmentation": "multi_scale close_mosaic",
        "optimization": "loss",
        "run": "previews",
    }

    recipe: str = "detect"
    data: str | None = None
    """Images with boxes to train on: a folder in COCO, YOLO, Pascal VOC, CSV, JSON lines, Parquet or tar shards, its
    annotation file, torchvision:NAME, or a name that `vitral data list` shows, such as scenes. Default: none;
    required."""
    format: Literal["coco", "yolo", "voc", "csv", "jsonl", "parquet", "shards"] | None = None
    """Format of --data, if a folder could be read in more than one. Default: recognized from the files."""
    image_size: int | None = None
    """Side of the square input, in pixels. Default: chosen from the data, at most 640, or the size --weights were
    trained at."""
    resize: Literal["squash", "letterbox"] | None = None
    """How to make an image square: squash it, or pad it (letterbox). Default: as for --weights, else letterbox."""
    balanced: bool = False
    """Repeat images of rare classes (repeat-factor sampling)."""
    model: str | None = None
    """Detector: detector_nano, rfdetr_nano, rfdetr_small, rfdetr_medium, rfdetr_large, lwdetr_tiny, lwdetr_small,
    lwdetr_medium, lwdetr_large or lwdetr_xlarge. Default: what --weights hold, else detector_nano."""
    weights: str | None = None
    """Weights to start from: a run or checkpoint folder of a detector or a classifier, a public detector's file or
    hf:OWNER/REPO, or, with --encoder, a plain encoder's. Default: none; train from scratch."""
    encoder: str | None = None
    """Encoder to combine with the neck and decoder of --model, a name that `vitral models` lists, such as dinov2_s14;
    --weights then hold the encoder. Default: the encoder of --model."""
    patch_size: int | None = None
    """Resize the encoder's patch embedding to this patch size, in pixels. Default: the encoder's own."""
    freeze: bool = False
    """Freeze the encoder; train only the neck, the decoder and the heads."""
    queries: int | None = None
    """Maximum number of boxes in an image. Default: the model's own number."""
    groups: int | None = None
    """Number of query groups in training (Group DETR). Default: the model's own number."""
    drop_path: float = 0.0
    """Stochastic depth rate of the encoder's last block; rates rise linearly from 0 in the first."""
    augment: Literal["none", "light", "lsj", "strong"] | None = None
    """Augmentation of training images: none; light (flip and color); lsj (large-scale jitter); strong (mosaic, mixup
    and pasted objects). Default: light; lsj from 5,000 images on."""
    flip: Literal["auto", "yes", "no"] = "auto"
    """Mirror training images left to right; auto: as --augment does, but never the digits of scenes."""
    multi_scale: float = 0.0
    """Change the input size at every step by up to this fraction: 0.25 for 75 to 125 %."""
    close_mosaic: float = 0.1
    """Fraction of the run, at its end, without the image mixing of --augment strong."""
    batch_size: int | Literal["auto"] | None = USUAL_BATCH
    """Images per step over all processes; auto measures the largest batch that fits into GPU memory."""
    lr: float | None = None
    """Peak learning rate of AdamW. Default: 0.0005, or 0.0002 with --weights."""
    optimizer: Literal["adamw", "muon"] | None = None
    """Optimizer: adamw, or muon (Muon for matrices and kernels, AdamW for the rest). Default: muon; adamw with
    --weights."""
    muon_lr: float = 0.01
    """Peak learning rate of Muon."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of matrices; biases, norms, tokens and positions have none."""
    layer_decay: float | None = None
    """Factor on the learning rate from each encoder layer to the one before it; 1: one rate for all. Default: 1; 0.8
    with --weights."""
    warmup: float | None = None
    """Epochs of linear learning-rate warmup. Default: a fifteenth of the epochs, at most 3."""
    clip: float | None = 0.1
    """Maximum norm of the gradient; None: no clipping."""
    loss: Literal["iou", "mal"] = "iou"
    """Classification loss: iou (IoU-aware binary cross-entropy, as in LW-DETR) or mal (matchability-aware, as in
    DEIM)."""
    eval_every: int | None = None
    """Epochs between evaluations. Default: a twentieth of the epochs."""
    previews: bool = True
    """At every evaluation, draw the detections in the same 16 validation images into the run's folder previews."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze and self.freeze_blocks is not None:
            raise UserError("--freeze freezes the whole encoder. Leave out --freeze-blocks.")


RECIPES = {
    "scenes": (
        "Train a detector on digits in composed scenes; minutes on two CPU cores.",
        Recipe(
            recipe="scenes",
            data="scenes",
            epochs=3,
            batch_size=8,
            augment="none",
            resize="squash",
            image_size=128,
        ),
    ),
    "detect": (
        "Train a detector on --data DIR with boxes (COCO, YOLO, VOC, CSV, ...), from scratch or from --weights SRC.",
        Recipe(recipe="detect"),
    ),
}
"""name -> (help, recipe)."""
