"""Recipes: every option of training a classifier, with its default.

A field that is None is chosen from the data by `settle`, which says what it chose. `vitral train RECIPE --help`
lists all options; the settled recipe is saved in the run folder as config.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from vit.errors import UserError
from vit.tasks.limits import check_limits


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
    minutes: float | None = None
    """Take fewer epochs, as many as end within this time by the speed of this machine."""
    batch_size: int | Literal["auto"] | None = None
    """Images in a step, of all processes together; auto: the largest that fits into the memory of the GPU."""
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
    save_every: int | None = None
    """Steps between checkpoints; ten minutes if left out. Every evaluation is followed by one, too."""
    keep: int = 2
    """The newest so many checkpoints are kept, to go back to where the last is damaged, and the best one."""
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
    """L2, decoupled, of matrices."""
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
    """Parts a batch goes through the model in, to take less memory; batch norms see a part each."""
    ema: float | None = None
    """Decay of the moving average of the weights, which is what is evaluated and kept; 0 for none."""
    drop_path: float | None = None
    skip_dropped: bool = False
    """What drop_path drops is not computed: less work where its rate is high, sums in another order."""
    patch_dropout: float = 0.0
    """Share of its patches that a training image loses at random: less work, and a regularizer."""
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
    """Mixed precision; auto: bf16 on CUDA and on CPUs with AMX or AVX512-BF16."""
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How processes that torchrun has started share the work: each has all of the model, or a part of it (FSDP2)."""
    recompute: bool = False
    """Keep less of each block for the backward pass and compute it again: less memory, a third more time."""
    eval_every: int | None = None
    """Epochs between evaluations; some fifteen in a run are chosen."""
    patience: int | None = None
    """Stop after this many evaluations without a better one."""

    def __post_init__(self) -> None:
        check_limits(self)
        if self.freeze and len(self.keeps) > 1:
            raise UserError(f"--freeze and the recipe probe train the head only: {self.keeps[1]} goes with finetune.")
        if self.lora_rank is not None and self.optimizer == "muon":
            raise UserError("--optimizer muon is for the blocks' own matrices, which --lora-rank keeps: use adamw.")
        if self.head_epochs is not None and self.epochs is not None and self.head_epochs >= self.epochs:
            told = f"--head-epochs {self.head_epochs} leaves none of --epochs {self.epochs} for the rest"
            raise UserError(f"{told}; to train the head only, use --freeze.")
        if self.freeze and (self.patch_dropout or self.skip_dropped):
            option = "--patch-dropout" if self.patch_dropout else "--skip-dropped"
            raise UserError(f"{option} changes how an encoder is trained, and here it is frozen: leave it out.")
        if self.skip_dropped and self.drop_path == 0:
            raise UserError("--skip-dropped saves the work of what --drop-path drops, which is 0 here: set it, too.")
        if self.skip_dropped and self.compile:
            raise UserError("--skip-dropped takes another number of images each time, which --compile cannot: use one.")

    @property
    def keeps(self) -> list[str]:
        """The options in use, as typed, that keep some of the weights a run starts from."""
        names = ("freeze", "freeze_blocks", "lora_rank", "head_epochs")
        on = [name for name in names if (value := getattr(self, name)) is not None and value is not False]
        return [f"--{name.replace('_', '-')}" for name in on]


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
