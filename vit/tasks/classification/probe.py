"""Linear probe: a frozen encoder computes features once, and the head is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vit.data.sets.features import FeatureBatches, Features
from vit.model.classifier import Classifier
from vit.predict.progress import clear, progress
from vit.runs.checkpoint import load_model
from vit.runs.folder import bad_files_listed
from vit.tasks.run import Parts, Run


class HeadOnly(nn.Module):
    """The head of a model, on pooled features: [B, D] -> logits [B, K]. Shares the model's parameters and names."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.head_drop, self.head = model.head_drop, model.head

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.head_drop(features))


def trains_head_only(model: nn.Module) -> bool:
    return all(name.startswith("head.") for name, p in model.named_parameters() if p.requires_grad)


def pooled(model: Classifier, amp: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """A function: images float32 [B, C, H, W] -> pooled features [B, D], in the precision of the training loop. Leaves
    the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            return model.pool(model.forward_features(images))

    return forward


def prepare(run: Run, parts: Parts, feed: Any, folder: Path) -> None:
    """Replace images by features, computed once, if the encoder is frozen. A resumed run uses the encoder of its
    checkpoint, since --weights may have changed."""
    if not feed.once:
        return
    task: Any = parts.task
    model, amp, data, world = task.whole, parts.loop.amp, run.data, run.world
    if run.resumed:
        model.load_state_dict(load_model(folder)[0].state_dict())
    encode = pooled(model, amp)
    loader: Any = feed.evaluation(data.train, strict=True)
    with bad_files_listed(folder, loader):
        batches = FeatureBatches(parts.batches, features_of(loader, encode))  # pyright: ignore[reportArgumentType]
    batches.bad = []  # already listed
    parts.batches = batches
    if parts.validation is not None:
        features = features_of(feed.evaluation(data.val), encode)
        size = loader.draws.batch_size
        parts.validation = lambda: features.batches(size, run.device, rank=world.rank, world=world.size)
    task.model = HeadOnly(model)


def features_of(loader: Any, encode: Callable[[Tensor], Tensor]) -> Features:
    n = len(loader.images)
    print(f"Computing the features of {n:,} images with the frozen encoder, once.", flush=True)
    features = Features.of(loader, encode, progress(n))
    clear()
    return features
