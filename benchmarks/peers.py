"""The other contestants: timm's VisionTransformer under timm's optimizer and schedule, and a small CNN."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.contest import Contestant
from vit.data import ImageSet, LabelReader, LoaderOptions, Mix, Pipeline, eval_loader, named_augment, train_loader
from vit.images.preprocess import Preprocess


def timm_vit(side: int, patch: int, classes: int, *, width: int = 128, depth: int = 4, heads: int = 4) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=side, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=classes
    )


def small_cnn(classes: int) -> nn.Module:
    """Five 3x3 convolutions with batch norm in three stages of 32, 64 and 128 channels, mean pooling, dropout."""
    layers: list[nn.Module] = []
    before = 3
    for widths in ((32, 32), (64, 64), (128,)):
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, classes))


def timm_optimization(
    model: nn.Module, epochs: int, steps_per_epoch: int, *, lr: float = 1e-3, batch_size: int = 64
) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW by timm's factory (its weight decay groups, decay .05) and its cosine schedule with its 5 warm-up
    epochs from 1e-5, stepped every update as timm's `--sched-on-updates`."""
    from timm.optim._optim_factory import create_optimizer_v2
    from timm.scheduler.scheduler_factory import create_scheduler_v2

    optimizer = create_optimizer_v2(model, opt="adamw", lr=lr, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=min(5, epochs // 4),
        warmup_lr=1e-5,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return optimizer, scheduler


def contestant(
    name: str, model: nn.Module, train: ImageSet, test: ImageSet, *, side: int, epochs: int, seed: int, augment: str,
    mixup: float = 0.0, batch_size: int = 64,
) -> Contestant:  # fmt: skip
    """Any model under timm's optimizer and schedule, fed with our loader and our augmentation: the same images."""
    mean, std = (0.1307,) * 3, (0.3081,) * 3
    preprocess = Preprocess(size=(side, side), resize="squash", mean=mean, std=std)
    pipeline = Pipeline(named_augment(augment), preprocess)
    mix = Mix(len(train.classes), mixup, 0.0) if mixup else None
    batches = train_loader(
        LabelReader(train, preprocess, pipeline, seed=seed, mix=mix),
        LoaderOptions(batch_size=batch_size, epochs=epochs),
    )
    steps = len(batches) // epochs
    optimizer, scheduler = timm_optimization(model, epochs, steps, batch_size=batch_size)
    done = 0

    def step(batch: Any) -> None:
        nonlocal done
        loss = F.cross_entropy(model(batch.images), batch.targets, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        scheduler.step_update(done)

    return Contestant(
        name,
        model,
        iter(batches),
        step,
        steps,
        epochs,
        lambda: eval_loader(LabelReader(test, preprocess), LoaderOptions(batch_size=256)),
    )
