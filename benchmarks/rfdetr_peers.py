"""RF-DETR-nano at 384 pixels from three code bases, with random weights: the `rfdetr` package, transformers, ours.

Letters: B batch, Q queries, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.detectors import transformers
from vit.detector import Detector, detector_preset
from vit.pretrained.layouts.detectors import convert
from vit.runs.tensors import fit_tensors
from vit.tasks.detection.loss import DetectionLoss

SIDE = 384
Answer = tuple[Tensor, Tensor]
"""Logits [B, Q, C] and boxes cxcywh [B, Q, 4]."""


@dataclass
class Contestant:
    model: nn.Module
    answer: Callable[[Tensor], Answer]
    """images [B, 3, SIDE, SIDE] -> what is found."""
    loss: Callable[[Tensor, Sequence[dict[str, Tensor]]], Tensor]
    """images and targets (`boxes`, `labels`) -> what is minimised."""


def randomized(model: nn.Module) -> nn.Module:
    """New weights shaken, so that scores differ and no branch is scaled to nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * (0.02 if tensor.ndim > 1 else 0.1))
    return model


def rfdetr() -> Contestant:
    """Raises ImportError where the package is missing (`pip install -e ".[peers]"`)."""
    transformers()  # before the package asks for it, and for Hugging Face's datasets
    from rfdetr.config import RFDETRNanoConfig, TrainConfig  # pyright: ignore[reportMissingImports]
    from rfdetr.models.lwdetr import (  # pyright: ignore[reportMissingImports]
        build_criterion_from_config,
        build_model_from_config,
    )

    config = RFDETRNanoConfig(pretrain_weights=None, device="cpu", num_classes=90)
    training = TrainConfig(dataset_dir=".")
    model: Any = randomized(build_model_from_config(config, training))
    criterion, _ = build_criterion_from_config(config, training)

    def answer(images: Tensor) -> Answer:
        out = model(list(images))
        return out["pred_logits"], out["pred_boxes"]

    def loss(images: Tensor, targets: Sequence[dict[str, Tensor]]) -> Tensor:
        terms = criterion(model(list(images), list(targets)), list(targets))
        return torch.stack([terms[name] * weight for name, weight in criterion.weight_dict.items()]).sum()

    return Contestant(model, answer, loss)


def hugging_face() -> Contestant:
    hf = transformers()
    backbone = hf.RfDetrDinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=SIDE, patch_size=16,
        out_indices=[3, 6, 9, 12], num_windows=2,
    )  # fmt: skip
    config = hf.RfDetrConfig(
        backbone_config=backbone, num_queries=300, decoder_layers=2, decoder_n_points=2, num_labels=91, dropout=0.0
    )
    model: Any = randomized(hf.RfDetrForObjectDetection(config))

    def answer(images: Tensor) -> Answer:
        out = model(images)
        return out.logits, out.pred_boxes

    def loss(images: Tensor, targets: Sequence[dict[str, Tensor]]) -> Tensor:
        labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
        return model(images, labels=labels).loss

    return Contestant(model, answer, loss)


def ours(peer: nn.Module, eps: float) -> Contestant:
    """With the weights of `peer`. eps: of the norms in its neck."""
    model = Detector(replace(detector_preset("rfdetr_nano"), neck_eps=eps))
    tensors = convert(dict(peer.state_dict()), "the peer")
    fit_tensors(model, tensors, "the peer")
    model.load_state_dict(tensors)
    criterion = DetectionLoss(91)

    def answer(images: Tensor) -> Answer:
        return tuple(model(images).last)

    def loss(images: Tensor, targets: Sequence[dict[str, Tensor]]) -> Tensor:
        return torch.stack(list(criterion(model(images, targets), targets).values())).sum()

    return Contestant(model, answer, loss)


PEERS: dict[str, tuple[Callable[[], Contestant], float]] = {
    "rfdetr": (rfdetr, 1e-6),
    "transformers": (hugging_face, 1e-5),
}
"""How each is made, and the eps of the norms in its neck."""
