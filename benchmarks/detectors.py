"""The other detectors, built small and new: transformers' LW-DETR and DEIMv2, torchvision's Faster R-CNN."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vit.detector.boxes import to_xyxy
from vit.detector.output import Predictions
from vit.detector.postprocess import Found
from vit.tasks.detection.metrics import DetectionMetrics


@dataclass
class Rival:
    model: nn.Module
    loss: Callable[[Tensor, Sequence[dict[str, Any]]], Tensor]
    """images [B, 3, H, W] and the targets of a batch -> what is minimised."""
    add: Callable[[DetectionMetrics, Tensor, Sequence[dict[str, Any]]], None]
    """Tell the metrics what was found in images."""
    detr: bool
    """Whether it is trained as DETRs are: clipped gradients, a moving average of the weights."""


def transformers() -> Any:
    """The package. It asks once whether Hugging Face's `datasets` is there, and would be shown ours, which has another
    content under that name: it asks while ours is hidden."""
    hidden = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "datasets"}
    for name in hidden:
        del sys.modules[name]
    sys.modules["datasets"] = None  # pyright: ignore[reportArgumentType]
    try:
        import transformers
        from transformers.utils.import_utils import is_datasets_available

        assert not is_datasets_available()
    finally:
        del sys.modules["datasets"]
        sys.modules.update(hidden)
    return transformers


def hugging_face(model: Any) -> Rival:
    def loss(images: Tensor, targets: Sequence[dict[str, Any]]) -> Tensor:
        return model(images, labels=[{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]).loss

    def add(metrics: DetectionMetrics, images: Tensor, targets: Sequence[dict[str, Any]]) -> None:
        out = model(images)
        metrics.update(Predictions(out.logits, out.pred_boxes), targets)

    return Rival(model, loss, add, detr=True)


def lwdetr(classes: int, side: int) -> Rival:
    """Of the width and depth of our detector_nano, one map at stride 8, its own linear patches of 16."""
    hf = transformers()
    backbone = hf.LwDetrViTConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, image_size=side, pretrain_image_size=side,
        window_block_indices=[], out_indices=[2, 4], num_windows=1,
    )  # fmt: skip
    config = hf.LwDetrConfig(
        backbone_config=backbone, projector_scale_factors=[2.0], group_detr=1, num_queries=60, d_model=128,
        decoder_layers=2, num_labels=classes, decoder_self_attention_heads=4, decoder_cross_attention_heads=8,
        decoder_ffn_dim=512, decoder_n_points=4,
    )  # fmt: skip
    return hugging_face(hf.LwDetrForObjectDetection(config))


def deimv2(classes: int, side: int) -> Rival:
    """Its HGNetV2 backbone in a quarter of the width, strides 8 to 32, denoising and dense matching as they come."""
    hf = transformers()
    widths = [64, 128, 256, 512]
    backbone = hf.HGNetV2Config(
        stem_channels=[3, 16, 16], stage_in_channels=[16, 64, 128, 256], stage_mid_channels=[16, 32, 64, 128],
        hidden_sizes=widths, stage_out_channels=widths, stage_num_blocks=[1, 1, 2, 1],
        stage_numb_of_layers=[3, 3, 3, 3], out_indices=[2, 3, 4],
    )  # fmt: skip
    config = hf.Deimv2Config(
        backbone_config=backbone, freeze_backbone_batch_norms=False, encoder_in_channels=widths[1:], d_model=128,
        encoder_hidden_dim=128, encoder_ffn_dim=512, decoder_in_channels=[128] * 3, decoder_ffn_dim=512,
        decoder_layers=3, num_queries=60, num_labels=classes, hidden_expansion=0.5, depth_mult=0.34,
        encoder_attention_heads=4, decoder_attention_heads=4,
    )  # fmt: skip
    return hugging_face(hf.Deimv2ForObjectDetection(config))


def faster_rcnn(classes: int, side: int) -> Rival:
    """torchvision's mobilenet_v3_large_fpn with all its layers trained. Its smallest anchors are 32 pixels: it looks
    at the images at twice their size. It learns from 64 proposals an image (512 by default, for photographs: a step
    takes four times as long)."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

    model = fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, num_classes=classes + 1,
        min_size=2 * side, max_size=2 * side, image_mean=[0.0] * 3, image_std=[1.0] * 3,
        box_batch_size_per_image=64, rpn_post_nms_top_n_train=300, rpn_post_nms_top_n_test=300,
    )  # fmt: skip

    def loss(images: Tensor, targets: Sequence[dict[str, Any]]) -> Tensor:
        scale = images.new_tensor([images.shape[3], images.shape[2]] * 2)
        wanted = [{"boxes": to_xyxy(t["boxes"]) * scale, "labels": t["labels"] + 1} for t in targets]
        return torch.stack(list(model(list(images), wanted).values())).sum()

    def add(metrics: DetectionMetrics, images: Tensor, targets: Sequence[dict[str, Any]]) -> None:
        for found, target in zip(model(list(images)), targets, strict=True):
            metrics.add(Found(found["boxes"], found["scores"], found["labels"] - 1, 0), target)

    return Rival(model, loss, add, detr=False)


RIVALS: dict[str, Callable[[int, int], Rival]] = {"lwdetr": lwdetr, "deimv2": deimv2, "fasterrcnn": faster_rcnn}
"""Made for so many classes and images of so many pixels a side."""
RATES = {"lwdetr": 5e-4, "deimv2": 5e-4, "fasterrcnn": 5e-4}
"""Peak rates of AdamW. Of the two DETRs the better of 5e-4 and 1e-3 (`python -m benchmarks detection --tune 3200`:
LW-DETR .003 and .004 mAP, DEIMv2 .036 and .003); Faster R-CNN's was not tuned."""
