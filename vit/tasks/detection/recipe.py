"""Recipes of detection: every option with its default, and what is chosen from the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from vit.errors import UserError
from vit.tasks.classification.settle import MOST_WORKERS, Facts, cores
from vit.tasks.limits import check_limits

USUAL_BATCH = 16


@dataclass(frozen=True)
class DetectionRecipe:
    """Train an object detector."""

    recipe: Annotated[str, tyro.conf.Suppress] = "detect"
    """Name of the base this was made from."""
    data: str | None = None
    """A folder with boxes (COCO, YOLO's data.yaml, Pascal VOC, CSV, JSON lines, Parquet, tar shards), its annotation
    file, or scenes."""
    format: Literal["coco", "yolo", "voc", "csv", "jsonl", "parquet", "shards"] | None = None
    """Which of them, where a folder holds more than one."""
    model: str | None = None
    """detector_nano (if left out), rfdetr_nano, rfdetr_small, ..., lwdetr_xlarge; a detector's weights tell it."""
    weights: str | None = None
    """Start from this: a run or checkpoint folder of a detector or a classifier, a public detector's file or
    hf:OWNER/REPO, or, with --encoder, those of a plain encoder."""
    encoder: str | None = None
    """The encoder under the neck and decoder of --model, a name of `vitral models` such as dinov2_s14: the one that
    --weights are of, or a new one."""
    patch_size: int | None = None
    """Resize the encoder's patches to this many pixels (14 to 16: pseudo-inverse); its own if left out."""
    trust_pickle: bool = False
    """Read --weights even if they are a pickle that runs code: only where you trust whoever made it."""
    out: str | None = None
    """The run folder; runs/RECIPE, then runs/RECIPE-2 and so on, if left out."""
    epochs: int | None = None
    batch_size: int | Literal["auto"] = USUAL_BATCH
    """Images in a step, of all processes together; auto: the largest that fits into the memory of the GPU."""
    lr: float | None = None
    """Peak learning rate of AdamW."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    workers: int | None = None
    """Processes that decode and augment."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Keep images decoded and resized: in memory, or on disk for the next run, too. Where they are augmented they are
    kept at 1.25 times the size that evaluation shows, so that what is zoomed in further comes from fewer pixels."""
    cache_gb: float = 8.0
    """The most that --cache keeps, in units of 1,000,000,000 bytes; images beyond are decoded every time."""
    resume: bool = False
    """Go on with the run in --out (or the newest run of this recipe)."""
    save_every: int | None = None
    """Steps between checkpoints; ten minutes if left out. Every evaluation is followed by one, too."""
    keep: int = 2
    """The newest so many checkpoints are kept, to go back to where the last is damaged, and the best one."""
    dry_run: bool = False
    """Check the data, run one batch each way, print parameters, FLOPs, memory and an estimate of the time."""

    image_size: int | None = None
    """Side in pixels of the square that images are brought to."""
    resize: Literal["squash", "letterbox"] | None = None
    """Ignore the aspect, or pad to a square; as a detector's weights know it, and else letterbox."""
    multi_scale: float = 0.0
    """Change the input size from step to step, by up to this share up and down: 0.25 for 75 to 125 %."""
    augment: Literal["none", "light", "lsj", "strong"] | None = None
    """strong mixes several images into one: mosaic, mixup and pasted objects."""
    close_mosaic: float = 0.1
    """Share of the run, at its end, in which strong mixes no images: what is learned last looks like what comes."""
    flip: Literal["auto", "yes", "no"] = "auto"
    """Mirror images; auto: as the augmentation says, and never the digits of scenes."""
    loss: Literal["iou", "mal"] = "iou"
    """IoU-aware classification, or DEIM's matchability-aware one."""
    queries: int | None = None
    """Boxes an image can have at most; the model's own number if left out."""
    groups: int | None = None
    """Sets of queries that learn side by side."""
    optimizer: Literal["adamw", "muon"] | None = None
    """muon: torch.optim.Muon on matrices and kernels, AdamW on the rest; if left out, where nothing is pretrained."""
    muon_lr: float = 0.01
    weight_decay: float = 1e-4
    layer_decay: float | None = None
    """Factor of the learning rate from one layer of the encoder to the one before it."""
    warmup: float | None = None
    """Epochs of linear warm-up."""
    final_lr: float = 0.0
    """Learning rate at the end, as a share of the peak."""
    clip: float | None = 0.1
    """Largest norm of the gradient; None for no clipping."""
    accumulate: int = 1
    """Parts a batch goes through the model in, to take less memory; batch norms see a part each."""
    ema: float | None = None
    """Decay of the moving average of the weights, which is what is evaluated and kept; 0 for none."""
    drop_path: float = 0.0
    freeze: bool = False
    """Train the detector's head only, not the encoder."""
    freeze_blocks: int | None = None
    """Keep what is before the encoder's blocks (patches, tokens, positions) and the first so many blocks as they
    are."""
    balanced: bool = False
    """Repeat the images with rare classes (repeat-factor sampling)."""
    class_weights: bool = False
    """Weigh the loss of a class by 1 / its frequency."""
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """Mixed precision; auto: bf16 on CUDA and on CPUs with AMX or AVX512-BF16."""
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How processes that torchrun has started share the work: each has all of the model, or a part of it (FSDP2)."""
    recompute: bool = False
    """Keep less of each block for the backward pass and compute it again: less memory, a third more time."""
    eval_every: int | None = None
    """Epochs between evaluations."""
    patience: int | None = None
    """Stop after this many evaluations without a better one."""
    previews: bool = True
    """At every evaluation, draw the boxes found in the same 16 validation images into the run's folder previews."""

    def __post_init__(self) -> None:
        check_limits(self)
        if self.freeze and self.freeze_blocks is not None:
            raise UserError("--freeze keeps the whole encoder: leave out --freeze-blocks.")


if TYPE_CHECKING:
    from vit.images.preprocess import Preprocess

    class SettledDetection(DetectionRecipe):
        """A recipe after `settle_detection`: nothing is open but what comes with the model."""

        image_size: int
        resize: Literal["squash", "letterbox"]
        augment: Literal["none", "light", "lsj", "strong"]
        optimizer: Literal["adamw", "muon"]
        epochs: int
        batch_size: int
        lr: float
        layer_decay: float
        workers: int
        warmup: float
        ema: float
        eval_every: int


DETECTION_RECIPES = {
    "scenes": (
        "Detection of digits in composed scenes; minutes on two CPU cores.",
        DetectionRecipe(
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
        "Detection on --data DIR with boxes (COCO, YOLO, VOC, CSV, ...), from scratch or from --weights SRC.",
        DetectionRecipe(recipe="detect"),
    ),
}
"""name -> (what it is for, the recipe). What is None in a recipe is chosen from the data."""

BOXES_SEEN = 400_000
"""Images times epochs that a run from scratch should at least see."""


def settle_detection(
    recipe: DetectionRecipe, facts: Facts, divisor: int, known: Preprocess | None = None
) -> tuple[SettledDetection, list[str]]:
    """Fill in every open field, but a batch size of "auto"; also the lines that say what was chosen.

    divisor: of the model's input, in pixels. known: how the images were prepared that a detector's weights have seen.
    """
    r, n = recipe, facts.images
    chosen: dict[str, object] = {}

    def choose(name: str, value: object) -> None:
        if getattr(r, name) is None:
            chosen[name] = value

    longest = max(facts.size)
    nearest = max(divisor, min(round(longest / divisor), 640 // divisor) * divisor)
    choose("image_size", nearest if known is None else max(known.size))
    choose("resize", "letterbox" if known is None else known.resize)
    choose("augment", "light" if n < 5_000 else "lsj")
    choose("optimizer", "muon" if r.weights is None else "adamw")
    # Trained weights move slowly, and the lower their layer the slower (LW-DETR's and RF-DETR's layer decay is 0.8).
    choose("lr", 5e-4 if r.weights is None else 2e-4)
    choose("layer_decay", 1.0 if r.weights is None else 0.8)
    choose("epochs", max(12, min(300, math.ceil(BOXES_SEEN / max(1, n) / 10))))
    epochs = r.epochs or chosen["epochs"]
    assert isinstance(epochs, int)
    choose("warmup", min(3.0, epochs / 15))
    steps = max(1, n // (USUAL_BATCH if r.batch_size == "auto" else r.batch_size)) * epochs
    choose("ema", round(1 - 1 / min(2000.0, max(10.0, 0.08 * steps)), 5))
    choose("eval_every", max(1, epochs // 20))
    choose("workers", 0 if longest <= 128 else min(MOST_WORKERS, cores()))
    settled = cast("SettledDetection", replace(r, **chosen))  # pyright: ignore[reportArgumentType]
    if settled.image_size % divisor:
        raise UserError(
            f"--image-size {settled.image_size}: the detector takes multiples of {divisor}, for example "
            f"{max(divisor, round(settled.image_size / divisor) * divisor)}."
        )
    h, w = facts.size
    told = [f"{n:,} training images, {facts.classes} classes, median size {w}x{h}"]
    if chosen:
        told[0] += ": chosen " + ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in chosen.items()
        )
    return settled, told
