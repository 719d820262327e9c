"""Recipes: every training option with its default, and what `folder` chooses from the data.

A field that is None is chosen by `settle`, which says what it chose and why. `python train.py RECIPE --help` lists
all options; the settled recipe is saved in the run folder as config.yaml.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from vit.errors import UserError


@dataclass(frozen=True)
class Facts:
    """What a training set looks like; sizes in pixels, statistics of pixels in 0..1 per channel."""

    images: int
    classes: int
    size: tuple[int, int]
    """Median (H, W)."""
    gray: bool
    """No color in any of the images looked at."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Recipe:
    """Train an image classifier."""

    recipe: Annotated[str, tyro.conf.Suppress] = "folder"
    """Name of the base this was made from."""
    data: str | None = None
    """A folder DIR/{train,val,test}/CLASS/** or DIR/CLASS/**; a manifest with the columns path,label or path,labels
    (.csv, .tsv, .jsonl, .parquet); Parquet files with images; tar shards; hf:OWNER/NAME; torchvision:NAME; digits."""
    format: Literal["folder", "manifest", "parquet", "shards"] | None = None
    """What --data is, where the folder could be several; recognised from what lies in it if left out."""
    model: str | None = None
    """vit_SIZE+PATCH[_conv][_rope][_mean], for example vit_s16 or vit_nano8_conv_mean."""
    weights: str | None = None
    """Start from a run or checkpoint folder, from timm:NAME or hf:OWNER/REPO, or from a file of public weights
    (.safetensors, .pth, .npz, .onnx) together with --model NAME, as `vitral models` lists them."""
    trust_pickle: bool = False
    """Read --weights even if they are a pickle that runs code: only where you trust whoever made it."""
    out: str | None = None
    """The run folder; runs/RECIPE, then runs/RECIPE-2 and so on, if left out."""
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    """Peak learning rate of AdamW."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    workers: int | None = None
    """Processes that decode and augment; none for small images, which are kept in memory."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Keep images decoded and resized: in memory, or on disk for the next run, too. Where a random crop follows they
    are kept at 1.25 times the input size, so that crops of less than 64 % of an image come from fewer pixels."""
    cache_gb: float = 8.0
    """The most that --cache keeps, in units of 1,000,000,000 bytes; images beyond are decoded every time."""
    resume: bool = False
    """Go on with the run in --out (or the newest run of this recipe)."""
    dry_run: bool = False
    """Check the data, run one batch each way, print parameters, FLOPs, memory and an estimate of the time."""

    image_size: int | None = None
    """Side in pixels of the square that images are resized to; a multiple of the patch size."""
    resize: Literal["crop", "squash", "letterbox"] | None = None
    """Evaluation: cut the center out, ignore the aspect, or pad to a square."""
    augment: Literal["none", "glyph", "light", "augreg", "deit3"] | None = None
    flip: Literal["auto", "yes", "no"] = "auto"
    """Mirror images; auto: as the augmentation says, and never for images without color (digits, text, scans)."""
    erase: float = 0.0
    """Probability of erasing a rectangle."""
    mixup: float | None = None
    """Alpha of mixup; 0 for none."""
    cutmix: float | None = None
    label_smoothing: float = 0.1
    optimizer: Literal["adamw", "muon"] | None = None
    """muon: torch.optim.Muon on the matrices of the blocks, AdamW on the rest."""
    muon_lr: float = 0.006
    weight_decay: float | None = None
    """L2, decoupled; 0.3 with muon, 0.05 with adamw."""
    l1: float = 0.0
    """Weight of the sum of absolute values of all matrices."""
    layer_decay: float | None = None
    """Factor of the learning rate from one layer to the one before it."""
    warmup: float | None = None
    """Epochs of linear warm-up."""
    final_lr: float = 0.0
    """Learning rate at the end, as a share of the peak."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None for no clipping."""
    accumulate: int = 1
    """Parts a batch goes through the model in, for batches that do not fit into memory: the same update but for batch
    norms, which see a part each."""
    ema: float | None = None
    """Decay of the moving average of the weights, which is what is evaluated and kept; 0 for none."""
    drop_path: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_scale: float | None = None
    """Initial value of LayerScale; 0 for none."""
    freeze: bool = False
    """Train the head only."""
    freeze_blocks: int | None = None
    """Keep what is before the blocks (patches, tokens, positions) and the first so many blocks as they are."""
    lora_rank: int | None = None
    """Train low-rank updates of the blocks' linear layers (LoRA), and the head; the blocks' own weights are kept.
    Checkpoints hold the sum of both."""
    lora_alpha: float = 16.0
    """The updates are scaled by alpha / rank."""
    head_epochs: int | None = None
    """Train the head alone for so many epochs at first, with a warm-up of its own, then everything."""
    balanced: bool = False
    """Draw every class equally often."""
    class_weights: bool = False
    """Weigh the loss of a class by 1 / its frequency."""
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """Mixed precision; auto: bf16 on CUDA."""
    compile: bool = False
    eval_every: int | None = None
    """Epochs between evaluations."""
    patience: int | None = None
    """Stop after this many evaluations without a better one."""

    def __post_init__(self) -> None:
        for name, low in (
            ("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("eval_every", 1), ("patience", 1),
            ("freeze_blocks", 0), ("lora_rank", 1), ("head_epochs", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"--{name.replace('_', '-')} must be at least {low}, got {value}.")
        for name in ("lr", "muon_lr", "warmup", "mixup", "cutmix", "weight_decay", "l1", "workers", "ema", "cache_gb"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"--{name.replace('_', '-')} must not be negative, got {value}.")
        if not 0 < self.lora_alpha < math.inf:
            raise UserError(f"--lora-alpha must be above 0, got {self.lora_alpha}.")
        if self.freeze and len(self.keeps) > 1:
            raise UserError(f"--freeze and the recipe probe train the head only: {self.keeps[1]} goes with finetune.")
        if self.lora_rank is not None and self.optimizer == "muon":
            raise UserError("--optimizer muon is for the blocks' own matrices, which --lora-rank keeps: use adamw.")
        if self.head_epochs is not None and self.epochs is not None and self.head_epochs >= self.epochs:
            told = f"--head-epochs {self.head_epochs} leaves none of --epochs {self.epochs} for the rest"
            raise UserError(f"{told}; to train the head only, use --freeze.")

    @property
    def keeps(self) -> list[str]:
        """The options in use, as typed, that keep some of the weights a run starts from."""
        names = ("freeze", "freeze_blocks", "lora_rank", "head_epochs")
        on = [name for name in names if (value := getattr(self, name)) is not None and value is not False]
        return [f"--{name.replace('_', '-')}" for name in on]


if TYPE_CHECKING:

    class Settled(Recipe):
        """A recipe after `settle`: nothing is open but what comes with `weights`."""

        resize: Literal["crop", "squash", "letterbox"]
        augment: Literal["none", "glyph", "light", "augreg", "deit3"]
        optimizer: Literal["adamw", "muon"]
        epochs: int
        batch_size: int
        lr: float
        weight_decay: float
        layer_decay: float
        workers: int
        mixup: float
        cutmix: float
        warmup: float
        ema: float
        drop_path: float
        layer_scale: float
        eval_every: int


RECIPES = {
    "digits": (
        "The 5,000 real handwritten digits that come with vitral; minutes on two CPU cores.",
        Recipe(recipe="digits", data="digits"),
    ),
    "folder": (
        "From scratch on --data DIR. Model, image size, augmentation and length are chosen from the data.",
        Recipe(recipe="folder"),
    ),
    "finetune": (
        "From a checkpoint, --weights RUN, on --data DIR: a new head, layer decay, a low rate.",
        Recipe(recipe="finetune", optimizer="adamw", ema=0.0, mixup=0.0, cutmix=0.0),
    ),
    "probe": (
        "A linear probe: only a new head is trained, on features that the encoder of --weights RUN gives once.",
        # 100 epochs, as DINO's eval_linear.py; DINOv2's takes 12,500 steps. Both use SGD without weight decay, and
        # DINOv2's tries 13 rates. AdamW at this one gives 73.0, 90.6 and 93.9 % on DINOv2-S/14's features of 100, 1,000
        # and 3,500 digits, logistic regression at its best C 74.0, 90.7 and 94.1 %; the same features scaled by .3 or 3
        # cost it 1.6 points at most.
        Recipe(
            recipe="probe", freeze=True, optimizer="adamw", lr=0.01, epochs=100, eval_every=10, ema=0.0,
            label_smoothing=0.0, mixup=0.0, cutmix=0.0, weight_decay=0.05, drop_path=0.0, augment="none",
        ),
    ),
}  # fmt: skip
"""name -> (what it is for, the recipe). What is None in a recipe is chosen from the data."""

SIDES = (32, 64, 96, 128, 160, 224)
"""Input sizes that `settle` chooses from."""


def settle(recipe: Recipe, facts: Facts) -> tuple[Settled, list[str]]:
    """Fill in every open field from the facts; also the lines that say what was chosen and why."""
    r, n = recipe, facts.images
    longest = max(facts.size)
    small = longest <= 40
    glyph = small and facts.gray
    chosen: dict[str, object] = {}

    def choose(name: str, value: object) -> None:
        if getattr(r, name) is None:
            chosen[name] = value

    scratch = r.weights is None
    side = next((s for s in SIDES if s >= 0.8 * longest), SIDES[-1])
    if scratch:
        choose("image_size", side)
        choose("model", _model_for(n, r.image_size or side))
    choose("resize", "squash" if facts.gray else "crop")
    choose("augment", "glyph" if glyph else "light" if n < 20_000 or not scratch else "deit3")
    rule = r.optimizer or ("muon" if r.lora_rank is None else "adamw")
    choose("optimizer", rule)
    # Weight decay, drop path and mixup hold back what a few thousand images invite to overfit (benchmarks/digits.md).
    choose("weight_decay", 0.05 if rule == "adamw" else 1.0 if glyph else 0.5)
    tunes = r.recipe == "finetune"
    batch = r.batch_size or (16 if tunes and n <= 1000 else 64 if n <= 20_000 else 256)
    choose("batch_size", batch)
    if tunes:
        # LoRA on those of `tuning_epochs`: 93.4, 93.6, 92.8 % at 3e-4, 1e-3, 3e-3; at 1e-3 with layer decay 88.8 %.
        choose("lr", 3e-4 if r.lora_rank is None else 1e-3)
        choose("layer_decay", 0.75 if r.lora_rank is None else 1.0)
        choose("epochs", tuning_epochs(n, batch))
    else:
        choose("lr", 1e-3 * math.sqrt(batch / 64))
        choose("layer_decay", 1.0)
        choose("epochs", epochs_for(n, longest) if glyph else epochs_for_photographs(n))
    epochs = r.epochs or chosen["epochs"]
    assert isinstance(epochs, int)
    choose("warmup", min(5.0, epochs / 15))
    steps = max(1, n // batch) * epochs
    # An average over about the last 8 % of the run, at most 2,000 steps.
    choose("ema", round(1 - 1 / min(2000.0, max(10.0, 0.08 * steps)), 5))
    choose("drop_path", 0.1 if scratch or n >= 50_000 else 0.0)
    choose("layer_scale", 0.0 if n < 50_000 else 1e-4)
    choose("mixup", 0.2)
    choose("cutmix", 0.0 if glyph else 1.0)
    # Some fifteen evaluations are enough to see a curve and to choose the best one from; each also writes checkpoints.
    choose("eval_every", max(1, epochs // 15))
    choose("workers", 0 if small else 2)
    return cast("Settled", replace(r, **chosen)), _told(chosen, facts)  # pyright: ignore[reportArgumentType]


def epochs_for(n: int, side: int) -> int:
    """For small grayscale images of `side` pixels: 34 epochs were enough for 3,500 of 28 pixels; fewer images need more
    rounds, though fewer steps in all. Smaller ones hold less to learn: 8x8 pixels were learnt within 7."""
    rounds = 34 * max(1.0, 3500 / max(1, n)) ** 0.75
    return min(400, max(12, math.ceil(rounds * min(1.0, side / 28) ** 1.5)))


def epochs_for_photographs(n: int) -> int:
    """They have more to learn than glyphs, and take at least 100."""
    return min(400, max(100, math.ceil(30 * (3500 / max(1, n)) ** 0.75)))


def tuning_epochs(n: int, batch: int) -> int:
    """20, or what makes 200 steps: with 80 labelled digits DINOv2's ViT-S comes to 96 % in 200 steps of 16 images, and
    to 59 % in the 20 steps that 20 epochs of 64 are."""
    return max(20, math.ceil(200 / max(1, n // batch)))


def _model_for(n: int, side: int) -> str:
    """More data carries a larger model; below 200,000 images a convolutional stem makes up for what a plain ViT
    would have to learn from them (83.5 -> 96.6 % on 8,000 small images)."""
    size = "nano" if n < 20_000 else "ti" if n < 100_000 else "s" if n < 1_000_000 else "b"
    patch = 8 if side <= 96 else 16
    return f"vit_{size}{patch}" + ("_conv_mean" if n < 200_000 else "")


def _told(chosen: dict[str, object], facts: Facts) -> list[str]:
    if not chosen:
        return []
    h, w = facts.size
    color = "grayscale" if facts.gray else "color"
    lines = [f"{facts.images:,} training images, {facts.classes} classes, median size {w}x{h}, {color}: chosen"]
    shown = ("model", "image_size", "resize", "augment", "optimizer", "lr", "batch_size", "epochs", "mixup", "cutmix")
    values = [f"{name} {_plain(chosen[name])}" for name in shown if name in chosen]
    lines.append("  " + ", ".join(values))
    return lines


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
