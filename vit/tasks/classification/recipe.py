"""Recipes of classification: every option with its default.

`settle` chooses fields that are None from the data and reports the choice; the run folder's config.yaml stores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vit.errors import UserError
from vit.tasks.options import RunOptions


@dataclass(frozen=True)
class Recipe(RunOptions):
    """Train an image classifier."""

    GROUPS: ClassVar[dict[str, str]] = {
        "model": "lora_rank lora_alpha head_epochs skip_dropped patch_dropout dropout attention_dropout layer_scale",
        "augmentation": "erase mixup cutmix",
        "optimization": "label_smoothing l1",
    }

    recipe: str = "folder"
    data: str | None = None
    """Images to train on: class folders (DIR/CLASS/** or DIR/{train,val,test}/CLASS/**), a manifest with the columns
    path,label or path,labels (.csv, .tsv, .jsonl, .parquet), Parquet files with images, tar shards, hf:OWNER/NAME,
    torchvision:NAME, or a name that `vitral data list` shows, such as digits. Default: none; required."""
    format: Literal["folder", "manifest", "parquet", "shards"] | None = None
    """Format of --data, if a folder could be read in more than one. Default: recognized from the files."""
    image_size: int | None = None
    """Side of the square input, in pixels; a multiple of the patch size. Default: chosen from the data, or the size
    --weights were trained at."""
    resize: Literal["crop", "squash", "letterbox"] | None = None
    """How to make an image square for evaluation: crop its center, squash it, or pad it (letterbox). Default: crop;
    squash for grayscale images."""
    balanced: bool = False
    """Draw every class equally often."""
    model: str | None = None
    """Architecture: vit_SIZE+PATCH[_conv][_rope][_mean], such as vit_s16 or vit_nano8_conv_mean, or a name that `vitral
    models` lists. Default: chosen from the data, or what --weights hold."""
    weights: str | None = None
    """Weights to start from: a run or checkpoint folder, timm:NAME, hf:OWNER/REPO, or a file of public weights
    (.safetensors, .pth, .npz, .onnx) together with --model NAME. Default: none; train from scratch."""
    lora_rank: int | None = None
    """Train only the head and low-rank updates (LoRA) of this rank to the linear layers of the blocks. Checkpoints
    hold the merged weights. Default: none."""
    lora_alpha: float = 16.0
    """Scale of LoRA: updates are multiplied by alpha / rank."""
    head_epochs: int | None = None
    """Train only the head for this many first epochs, with its own warmup, then everything. Default: none."""
    drop_path: float | None = None
    """Stochastic depth rate of the last block; rates rise linearly from 0 in the first. Default: 0.1, or 0 with
    --weights on fewer than 50,000 images."""
    skip_dropped: bool = False
    """Skip the computation of samples that --drop-path drops: faster at high rates; sums change their order."""
    patch_dropout: float = 0.0
    """Fraction of patches to drop at random from each training image: faster, and a regularizer."""
    dropout: float = 0.0
    """Dropout rate of the attention output and of the MLPs."""
    attention_dropout: float = 0.0
    """Dropout rate of the attention weights."""
    layer_scale: float | None = None
    """Initial value of LayerScale; 0 for none. Default: 0.0001 from 50,000 images on, else none."""
    augment: Literal["none", "glyph", "light", "augreg", "deit3"] | None = None
    """Augmentation of training images: none; glyph (shift, rotate and shear, for digits and text); light (crop, flip
    and color); augreg (RandAugment); deit3 (3-Augment). Default: chosen from the data."""
    flip: Literal["auto", "yes", "no"] = "auto"
    """Mirror training images left to right; auto: as --augment does, but never grayscale images."""
    erase: float = 0.0
    """Probability of erasing a random rectangle of a training image."""
    mixup: float | None = None
    """Alpha of mixup; 0 for none. Default: 0.2."""
    cutmix: float | None = None
    """Alpha of CutMix; 0 for none. Default: 1, or 0 for small grayscale images."""
    optimizer: Literal["adamw", "muon"] | None = None
    """Optimizer: adamw, or muon (Muon for matrices of the blocks, AdamW for the rest). Default: muon; adamw with
    --lora-rank."""
    weight_decay: float | None = None
    """Decoupled weight decay of matrices; biases, norms, tokens and positions have none. Default: 0.05 for adamw, 0.5
    or 1 for muon."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer to the one before it; 1: one rate for all. Default: 1; 0.75 in
    finetune without --lora-rank."""
    warmup: float | None = None
    """Epochs of linear learning-rate warmup. Default: a fifteenth of the epochs, at most 5."""
    label_smoothing: float = 0.1
    """Probability mass that label smoothing spreads over all classes."""
    l1: float = 0.0
    """Weight of the L1 penalty, the sum of the absolute values of all matrices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze and len(self.keeps) > 1:
            raise UserError(f"--freeze and the recipe probe train only the head. Use {self.keeps[1]} with finetune.")
        if self.lora_rank is not None and self.optimizer == "muon":
            raise UserError("--optimizer muon trains the blocks' matrices, which --lora-rank freezes. Use adamw.")
        if self.head_epochs is not None and self.epochs is not None and self.head_epochs >= self.epochs:
            problem = f"--head-epochs {self.head_epochs} leaves none of --epochs {self.epochs} for the rest."
            raise UserError(f"{problem} Lower it, or use --freeze to train only the head.")
        if self.freeze and (self.patch_dropout or self.skip_dropped):
            option = "--patch-dropout" if self.patch_dropout else "--skip-dropped"
            raise UserError(f"{option} affects only the training of the encoder, which is frozen. Leave it out.")
        if self.skip_dropped and self.drop_path == 0:
            raise UserError("--skip-dropped has no effect, since --drop-path is 0. Set --drop-path above 0.")
        if self.skip_dropped and self.compile:
            raise UserError("--skip-dropped changes the batch size of blocks, which --compile cannot handle. Use one.")

    @property
    def needs_whole_parameters(self) -> dict[str, bool]:
        return super().needs_whole_parameters | {
            "--l1": bool(self.l1),
            "--head-epochs": self.head_epochs is not None,
            "--lora-rank": self.lora_rank is not None,
        }

    @property
    def head_only_epochs(self) -> int:
        return self.head_epochs or 0

    @property
    def head_first(self) -> bool:
        return self.head_epochs is not None

    @property
    def keeps(self) -> list[str]:
        """The options in use, as typed, that freeze some of the starting weights."""
        names = ("freeze", "freeze_blocks", "lora_rank", "head_epochs")
        on = [name for name in names if (value := getattr(self, name)) is not None and value is not False]
        return [f"--{name.replace('_', '-')}" for name in on]


RECIPES = {
    "digits": (
        "Train on the 5,000 real handwritten digits that come with vitral; minutes on two CPU cores.",
        Recipe(recipe="digits", data="digits"),
    ),
    "folder": (
        "Train from scratch on --data DIR; model, image size, augmentation and length are chosen from the data.",
        Recipe(recipe="folder"),
    ),
    "finetune": (
        "Fine-tune --weights SRC on --data DIR: a new head, layer decay and a low learning rate.",
        Recipe(recipe="finetune", optimizer="adamw", ema=0.0, mixup=0.0, cutmix=0.0),
    ),
    "probe": (
        "Train only a new head on --data DIR, on features that the encoder of --weights SRC computes once.",
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
"""name -> (help, recipe)."""
