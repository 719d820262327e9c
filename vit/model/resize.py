"""Trained weights in a model with another head, input size, number of channels or patch size."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vit.errors import UserError
from vit.model.classifier import Classifier, make_head
from vit.model.config import ClassifierConfig, EncoderConfig
from vit.model.position import resize_grid, resize_relative
from vit.model.unfilled import fill, slots, unfilled


def refit(model: Classifier, config: ClassifierConfig, *, new_head: bool = False) -> tuple[Classifier, list[str]]:
    """The weights of `model` in a new model of `config`, and a note about each change.

    The head is new if the number of classes differs or with `new_head`. Raises UserError where the weights cannot be
    resized.
    """
    tensors, notes = refit_encoder(dict(model.state_dict()), model.config.encoder, config.encoder)
    if new_head or model.config.num_classes != config.num_classes:
        config = replace(config, head_bias=True)  # CLIP's projection has none, a classifier should
        tensors = {name: value for name, value in tensors.items() if not name.startswith("head.")}
        tensors |= {f"head.{name}": value for name, value in make_head(config).state_dict().items()}
        stored = model.config.num_classes
        before = f"the checkpoint has {stored}" if stored else "the checkpoint has no head"
        if config.num_classes:
            notes.append(f"New head for {config.num_classes} classes ({before}).")
        else:
            notes.append("The head is left out: the model gives pooled features.")
    new = unfilled(lambda: Classifier(config))
    fill(slots(new), tensors)
    return new.train(model.training), notes


def refit_encoder(
    tensors: dict[str, Tensor], old: EncoderConfig, new: EncoderConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """A model's tensors with those under `encoder.` resized from `old` to `new` (number of image channels, patch size,
    native input size), and a note about each change. Raises UserError where that cannot be done."""
    tensors, notes = dict(tensors), []
    kernel = "encoder.patch_embed.proj.weight"
    if (old.patch_size, old.in_chans) != (new.patch_size, new.in_chans) and old.stem == "conv":
        raise UserError("A convolutional stem cannot change its patch size or its number of channels.")
    if old.in_chans != new.in_chans:
        tensors[kernel] = fit_channels(tensors[kernel], old.in_chans, new.in_chans, old.patch_size)
        notes.append(
            f"Input channels {old.in_chans} -> {new.in_chans}: the kernels are summed, or repeated and scaled."
        )
    if old.patch_size != new.patch_size:
        tensors[kernel] = resize_kernel(
            tensors[kernel], new.in_chans, old.patch_size, new.patch_size, rule=new.kernel_resize
        )
        notes.append(f"The patch kernel is resized from {old.patch_size} to {new.patch_size} pixels (pseudo-inverse).")
    if old.grid != new.grid:
        sizes = "from {}x{} to {}x{} pixels".format(*old.image_size, *new.image_size)
        if old.positions == "learned":
            tensors["encoder.pos_embed"] = resize_grid(
                tensors["encoder.pos_embed"], old.grid, new.grid, rule=new.position_resize, prefix=new.prefix_positions
            )
            notes.append(f"Positions are resized {sizes}.")
        for name in [name for name in tensors if name.startswith("encoder.relative.")]:
            tensors[name] = resize_relative(tensors[name], old.grid, new.grid, new.position_resize)
        if old.relative_positions:
            notes.append(f"Relative positions are resized {sizes}.")
    return tensors, notes


def fit_channels(kernel: Tensor, old: int, new: int, patch: int) -> Tensor:
    """A linear patch kernel [D, C*p*p] for another number of image channels: the sum for one channel (a gray image is
    three equal channels), else the channels repeated in turn and scaled to keep the sum."""
    planes = kernel.unflatten(1, (old, patch, patch))
    if new == 1:
        planes = planes.sum(1, keepdim=True)
    else:
        planes = planes.repeat(1, math.ceil(new / old), 1, 1)[:, :new] * (old / new)
    return planes.flatten(1)


def resize_kernel(
    kernel: Tensor, channels: int, old: int, new: int, *, rule: Literal["bicubic", "bilinear"] = "bicubic"
) -> Tensor:
    """A linear patch kernel [D, C*p*p] for another patch size, by the pseudo-inverse of resizing a patch (FlexiViT,
    Beyer et al. 2023, eq. 4): its output on an enlarged patch equals that of the old kernel on the patch.

    rule: patches are resized with antialiasing bicubic interpolation (timm), or plain bilinear (big_vision)."""
    basis = torch.eye(old * old, dtype=torch.float32, device=kernel.device).view(-1, 1, old, old)
    resized = F.interpolate(basis, size=(new, new), mode=rule, antialias=rule == "bicubic")
    resize = resized.flatten(1).T  # [new^2, old^2]
    inverse = torch.linalg.pinv(resize.T)  # [new^2, old^2]
    planes = kernel.float().unflatten(1, (channels, old * old))
    return (planes @ inverse.T).flatten(1).to(kernel.dtype)
