"""The options that all recipes share, with their defaults; each task's `recipe.py` adds its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vit.tasks.limits import check_limits


@dataclass(frozen=True)
class RunOptions:
    """The options of a run of any task. The task's `settle.py` chooses those that are None."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "data format image_size resize workers cache cache_gb balanced",
        "model": "model weights trust_pickle freeze freeze_blocks drop_path",
        "augmentation": "augment flip",
        "optimization": "epochs minutes batch_size lr optimizer muon_lr weight_decay layer_decay warmup final_lr clip "
        "accumulate ema class_weights",
        "run": "out seed device amp compile parallel recompute eval_every patience save_every keep resume dry_run",
    }
    """The order of options in help: group -> options. Those of a subclass follow these."""

    recipe: str = ""
    """Name of the recipe."""
    data: str | None = None
    """Data to train on. Default: none; required."""
    format: str | None = None
    """Format of --data, if a folder could be read in more than one. Default: recognized from the files."""
    image_size: int | None = None
    """Side of the square input, in pixels. Default: chosen from the data."""
    workers: int | None = None
    """Processes that read and augment images. Default: one per core, at most 8; 0 where images are small."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Keep decoded, resized images in memory (ram) or in files that later runs use too (disk). Images that are cropped
    or zoomed at random are kept at 1.25 times the input size."""
    cache_gb: float = 8.0
    """Maximum size of the cache, in GB (1e9 bytes). Images that do not fit are decoded in every epoch."""
    balanced: bool = False
    """Sample rare classes more often."""
    model: str | None = None
    """Name of the model. Default: chosen from the data."""
    weights: str | None = None
    """Weights to start from. Default: none; train from scratch."""
    trust_pickle: bool = False
    """Read --weights even if the file is a pickle that runs code. Use it only if you trust its author."""
    freeze: bool = False
    """Train only the head."""
    freeze_blocks: int | None = None
    """Freeze the patch embedding, the positions and this many first blocks of the encoder. Default: none."""
    flip: Literal["auto", "yes", "no"] = "auto"
    """Mirror training images left to right; auto: as the augmentation does."""
    epochs: int | None = None
    """Passes over the training images. Default: chosen from the number of images."""
    minutes: float | None = None
    """Limit the epochs to those that finish within this many minutes on this machine. Default: no limit."""
    batch_size: int | Literal["auto"] | None = None
    """Images per step over all processes; auto measures the largest batch that fits into GPU memory. Default: chosen
    from the number of images."""
    lr: float | None = None
    """Peak learning rate of AdamW. Default: chosen from the recipe and the batch size."""
    optimizer: Literal["adamw", "muon"] | None = None
    """Optimizer: adamw, or muon (Muon for matrices, AdamW for the rest). Default: chosen from the recipe."""
    muon_lr: float = 0.006
    """Peak learning rate of Muon."""
    weight_decay: float | None = None
    """Decoupled weight decay of matrices; biases, norms, tokens and positions have none. Default: chosen from the
    optimizer."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer to the one before it; 1: one rate for all. Default: chosen from the
    recipe."""
    warmup: float | None = None
    """Epochs of linear learning-rate warmup. Default: a fifteenth of the epochs."""
    final_lr: float = 0.0
    """Learning rate at the end of the cosine schedule, as a fraction of the peak."""
    clip: float | None = 1.0
    """Maximum norm of the gradient; None: no clipping."""
    accumulate: int = 1
    """Micro-batches to split each batch into, to save memory. Batch norms see one micro-batch at a time."""
    ema: float | None = None
    """Decay of the exponential moving average of the weights, which is evaluated and saved; 0 for none. Default: chosen
    from the number of steps."""
    class_weights: bool = False
    """Weight the loss of each class by its inverse frequency."""
    out: str | None = None
    """Run folder for checkpoints, logs and the report. Default: runs/RECIPE, then runs/RECIPE-2 and so on."""
    seed: int = 0
    """Seed of the initial weights, the image order, the augmentation, and the split if the data has none."""
    device: str = "auto"
    """Device to train on: auto, cpu, cuda, cuda:1 or mps."""
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """Mixed precision; auto uses bf16 on GPUs that support it and on CPUs with AMX or AVX512-BF16."""
    compile: bool = False
    """Compile the model with torch.compile."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How the processes of torchrun share the model: ddp copies it to each, fsdp shards it among them (FSDP2)."""
    recompute: bool = False
    """Recompute activations in the backward pass (gradient checkpointing); saves memory, takes a third more time."""
    eval_every: int | None = None
    """Epochs between evaluations. Default: a fifteenth of the epochs."""
    patience: int | None = None
    """Stop after this many evaluations in a row without improvement. Default: never."""
    save_every: int | None = None
    """Steps between checkpoints; every evaluation also saves one. Default: every 10 minutes."""
    keep: int = 2
    """How many of the newest checkpoints to keep; the best is always kept."""
    resume: bool = False
    """Continue the run in --out, or the newest run of this recipe."""
    dry_run: bool = False
    """Check the data, run one batch forward and backward, and print parameters, FLOPs, memory and the expected time;
    write nothing."""

    def __post_init__(self) -> None:
        check_limits(self)

    @property
    def head_only_epochs(self) -> int:
        """Epochs at the start that train only the head."""
        return 0

    @property
    def head_first(self) -> bool:
        """Whether training starts with the head alone."""
        return False

    @property
    def needs_whole_parameters(self) -> dict[str, bool]:
        """Options that do not work with sharded parameters (--parallel fsdp): the option as typed -> whether in use."""
        return {
            "--optimizer muon": self.optimizer == "muon",
            "--freeze": self.freeze,
            "--compile": self.compile,
            "--amp fp16": self.amp == "fp16",
        }
