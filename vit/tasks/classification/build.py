"""From a settled recipe to the parts of a run: model, preprocessing, task, optimizers, loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import Classifier
from vit.model.config import ClassifierConfig
from vit.model.depth import depth_of, in_blocks
from vit.model.lora import add_lora
from vit.optim.optimizers import make_optimizers
from vit.pretrained.create import create
from vit.pretrained.transfer import start_from
from vit.tasks.classification.loss import ClassificationLoss, inverse_frequency
from vit.tasks.classification.settle import Facts
from vit.tasks.task import Classification
from vit.training.engine import Loop

if TYPE_CHECKING:
    from vit.tasks.classification.settle import Settled
    from vit.tasks.detection.recipe import SettledDetection

DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_model(recipe: Settled, classes: Sequence[str], facts: Facts) -> tuple[Classifier, Preprocess, list[str]]:
    """A new model, or one that starts from `recipe.weights`; how its images are prepared; and what to tell the user."""
    regularizers: dict[str, Any] = {
        "dropout": recipe.dropout,
        "attention_dropout": recipe.attention_dropout,
        "drop_path": recipe.drop_path,
        "skip_dropped": recipe.skip_dropped,
        "patch_dropout": recipe.patch_dropout,
    }
    side = recipe.image_size
    if recipe.weights is None:
        assert recipe.model is not None and side is not None
        if recipe.recipe in ("finetune", "probe"):
            raise UserError(f"{recipe.recipe} starts from a checkpoint: add --weights RUN (or timm:NAME, or a file).")
        if recipe.keeps:
            raise UserError(f"{recipe.keeps[0]} keeps weights that were learned before: add --weights SRC.")
        model = create(
            recipe.model,
            num_classes=len(classes),
            image_size=side,
            layer_scale=recipe.layer_scale or None,
            **regularizers,
        )
        return model, fresh_preprocess(recipe, facts, side), []
    size = (side, side) if side is not None else None
    model, config, notes = start_from(
        recipe.weights,
        tuple(classes),
        name=recipe.model,
        image_size=size,
        trust_pickle=recipe.trust_pickle,
        **regularizers,
    )
    preprocess = Preprocess.from_dict(config["preprocess"])
    preprocess = replace(preprocess, size=model.config.encoder.image_size, resize=recipe.resize or preprocess.resize)
    return model, preprocess, notes + freeze(recipe, model)


def freeze(recipe: Settled, model: Classifier) -> list[str]:
    """Choose which of the trained weights the run keeps as they are; what to tell the user."""
    depth, notes = len(model.encoder.blocks), []
    kept = recipe.freeze_blocks or 0
    if kept > depth:
        raise UserError(f"--freeze-blocks {kept}: the model has {depth} blocks.")
    if recipe.freeze:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        notes.append("the encoder is frozen: only the head is trained")
    if recipe.lora_rank is not None:
        if kept == depth:
            raise UserError(f"--freeze-blocks {kept} leaves no block for the updates of --lora-rank.")
        layers = add_lora(model, recipe.lora_rank, recipe.lora_alpha, first_block=kept)
        notes.append(f"LoRA of rank {recipe.lora_rank} on {layers} linear layers; only it and the head are trained")
    if recipe.freeze_blocks is not None:
        for name, parameter in model.named_parameters():
            if depth_of(name, depth) <= kept:
                parameter.requires_grad_(False)
        notes.append(f"the patch embedding, the positions and {kept} of {depth} blocks are frozen")
    if recipe.head_epochs is not None:
        notes.append(f"up to epoch {recipe.head_epochs} the head is trained alone")
    return notes


def fresh_preprocess(recipe: Settled, facts: Facts, side: int) -> Preprocess:
    """Normalisation by the training set's own statistics; photographs are cropped by an eighth, as is usual."""
    return Preprocess(
        size=(side, side),
        resize=recipe.resize,
        crop=0.875 if recipe.resize == "crop" and side >= 128 else 1.0,
        mean=facts.mean,
        std=facts.std,
    )


def build_task(recipe: Settled, model: Classifier, classes: Sequence[str], counts: torch.Tensor, multilabel: bool):
    """counts: training images of each class, int64 [K]."""
    loss = ClassificationLoss(
        len(classes),
        multilabel=multilabel,
        label_smoothing=recipe.label_smoothing,
        class_weights=inverse_frequency(counts) if recipe.class_weights else None,
        l1=recipe.l1,
    )
    return Classification(model, classes, loss.to(next(model.parameters()).device))


def build_optimizers(
    recipe: Settled | SettledDetection,
    model: torch.nn.Module,
    *,
    head_first: bool = False,
    by_muon: Callable[[str, torch.Tensor], bool] = in_blocks,
) -> list[torch.optim.Optimizer]:
    return make_optimizers(
        model,
        name=recipe.optimizer,
        lr=recipe.lr,
        muon_lr=recipe.muon_lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        head_first=head_first,
        by_muon=by_muon,
    )


def build_loop(
    recipe: Settled | SettledDetection, steps: int, device: torch.device, *, head_epochs: int | None = None
) -> Loop:
    """steps: of the whole run."""
    per_epoch = steps // recipe.epochs
    return Loop(
        steps=steps,
        steps_per_epoch=per_epoch,
        head_steps=(head_epochs or 0) * per_epoch,
        warmup=round(recipe.warmup * per_epoch),
        final_lr=recipe.final_lr,
        accumulate=recipe.accumulate,
        clip=recipe.clip,
        amp=mixed_precision(recipe.amp, device),
        seed=recipe.seed,
        eval_every=recipe.eval_every,
        patience=recipe.patience,
    )


def mixed_precision(amp: str, device: torch.device) -> torch.dtype | None:
    """What most of a step is computed in, None for float32; amp as in a recipe."""
    if amp == "auto":
        amp = "bf16" if _fast_in_bf16(device) else "none"
    return DTYPES[amp]


def _fast_in_bf16(device: torch.device) -> bool:
    """CPUs gain where they have instructions for matrices or vectors of bfloat16 (benchmarks/LOG.md)."""
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()  # pyright: ignore
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def checkpoint_config(
    task: Classification, preprocess: Preprocess, data: dict[str, Any], flip: float
) -> dict[str, Any]:
    """What config.json holds besides the weights: everything to rebuild the model and to prepare an image."""
    import vit

    model: Any = task.model
    config: ClassifierConfig = model.config
    return {
        "vitral": vit.__version__,
        "task": "classification",
        "model": config.to_dict(),
        "classes": list(task.classes),
        "multilabel": task.loss.multilabel,
        "preprocess": preprocess.to_dict(),
        "temperature": None,
        "data": data,
        "augment": {"flip": flip},
    }
