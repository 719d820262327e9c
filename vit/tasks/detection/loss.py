"""Detection losses: IoU-aware classification, L1 and GIoU, on every layer's predictions.

Letters: B batch, Q queries of all groups, C classes, M matches, S objects of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.detector.boxes import giou, iou, to_xyxy
from vit.detector.output import DetectorOutput, Predictions
from vit.errors import UserError
from vit.tasks.detection.matcher import Matcher, Matches


class DetectionLoss(nn.Module):
    """Terms of LW-DETR (Chen et al. 2024): `class`, `l1`, `giou` of the last layer; suffixes `_0`, `_1`, ... mark
    earlier layers, `_enc` the encoder's selection. Each is a sum over matches divided by the number of objects. `_dn0`,
    `_dn1`, ... mark denoising queries, which start from noised boxes: each keeps its object, and all queries of an
    object together weigh as one.

    kind: "iou" is the IoU-aware binary cross-entropy, target q = p^.25 * IoU^.75 for a match, weight p^2 elsewhere;
        "mal" is the matchability-aware loss of DEIM (Huang et al. 2024, eq. 3), target IoU^1.5, weight p^1.5.
    class_weights [C]: factor on each class's terms.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        kind: Literal["iou", "mal"] = "iou",
        matcher: Matcher | None = None,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        class_weights: Tensor | None = None,
    ):
        super().__init__()
        self.num_classes, self.kind, self.alpha = num_classes, kind, alpha
        self.matcher = matcher or Matcher()
        self.weights = {"class": class_weight, "l1": l1_weight, "giou": giou_weight}
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor | None

    def forward(self, outputs: DetectorOutput, targets: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """targets: one dict per image with `boxes` float [n, 4] (cxcywh in 0..1) and `labels` int64 [n]; n may be 0. An
        entry `crowd` bool [n] marks boxes that cover many objects; they are ignored."""
        device = outputs.last.logits.device
        targets = self.wanted(targets, device)
        count = self.amount(targets, outputs.groups, device).clamp(min=1)
        layers = {"": outputs.last}
        layers |= {f"_{i}": predictions for i, predictions in enumerate(outputs.earlier)}
        if outputs.selected is not None:
            layers["_enc"] = outputs.selected
        # Half precision overflows in exponentials and rounds small boxes to zero.
        with torch.autocast(device.type, enabled=False):
            terms = {}
            for suffix, predictions in layers.items():
                matches = self.matcher(*predictions, targets, outputs.groups)
                for name, value in self._layer(predictions, targets, matches).items():
                    terms[name + suffix] = self.weights[name] * value / count
            if outputs.denoised is not None:
                matches, share = _owned(outputs.denoised.owner, targets)
                for i, predictions in enumerate(outputs.denoised.layers):
                    for name, value in self._layer(predictions, targets, matches, share).items():
                        # The divisor counts the objects of all groups; denoising queries form one.
                        terms[f"{name}_dn{i}"] = self.weights[name] * value * (outputs.groups / count)
        return terms

    def wanted(self, targets: Sequence[dict[str, Any]], device: torch.device) -> list[dict[str, Tensor]]:
        """`boxes` and `labels` without crowds, on the device. Raises UserError for a label out of range."""
        return [_wanted(target, device, self.num_classes) for target in targets]

    def _layer(
        self, predictions: Predictions, targets: list[dict[str, Tensor]], matches: Matches, share: Tensor | None = None
    ) -> dict[str, Tensor]:
        """share [B, Q]: factor on each query's terms."""
        logits, boxes = predictions.logits.float(), predictions.boxes.float()
        labels = torch.cat([target["labels"] for target in targets])[matches.target]  # [M]
        true = torch.cat([target["boxes"] for target in targets])[matches.target]  # [M, 4]
        predicted = boxes[matches.image, matches.query]  # [M, 4]
        weight = torch.ones_like(predicted[:, 0]) if self.class_weights is None else self.class_weights[labels]
        if share is not None:
            weight = weight * share[matches.image, matches.query]
        quality = iou(to_xyxy(predicted.detach()), to_xyxy(true))
        classes = self._classification(logits, matches, labels, quality)
        return {
            "class": (classes if share is None else classes * share[..., None]).sum(),
            "l1": ((predicted - true).abs().sum(-1) * weight).sum(),
            "giou": ((1 - giou(to_xyxy(predicted), to_xyxy(true))) * weight).sum(),
        }

    def _classification(self, logits: Tensor, matches: Matches, labels: Tensor, quality: Tensor) -> Tensor:
        """-q log p - w log(1 - p) [B, Q, C], from logits to avoid log(0)."""
        where = (matches.image, matches.query, labels)
        p = logits.detach().sigmoid()
        if self.kind == "iou":
            target = (p[where] ** self.alpha * quality ** (1 - self.alpha)).clamp(min=0.01)
            # Gradients flow through the weight of a non-match, which penalizes confident mistakes more.
            rest = logits.sigmoid() ** 2
        else:
            target, rest = quality**1.5, p**1.5
        present = torch.zeros_like(logits).index_put(where, target)
        absent = rest.index_put(where, 1 - target)
        loss = present * F.softplus(-logits) + absent * F.softplus(logits)
        return loss if self.class_weights is None else loss * self.class_weights

    def amount(self, targets: Sequence[dict[str, Any]], groups: int, device: torch.device) -> Tensor:
        """The divisor of every sum, unless 0: the number of objects, counted once per group."""
        objects = sum(len(t["labels"]) - int(t["crowd"].sum() if "crowd" in t else 0) for t in targets)
        return torch.tensor(float(groups * objects), device=device)


def _owned(owner: Tensor, targets: Sequence[dict[str, Tensor]]) -> tuple[Matches, Tensor]:
    """Denoising queries matched to their objects, and weights [B, Q]: 1 / (queries of the object); 0 without one."""
    counts = torch.tensor([len(target["labels"]) for target in targets])
    image, query = torch.nonzero(owner >= 0, as_tuple=True)
    row = owner[image, query] + (counts.cumsum(0) - counts)[image]
    share = torch.zeros(owner.shape)
    share[image, query] = 1 / row.bincount(minlength=1)[row]
    device = targets[0]["labels"].device
    return Matches(*(column.to(device) for column in (image, query, row))), share.to(device)


def _wanted(target: dict[str, Any], device: torch.device, num_classes: int) -> dict[str, Tensor]:
    """Boxes and labels without crowds, on the device. Raises UserError for a label out of range."""
    labels, boxes = target["labels"], target["boxes"]
    if "crowd" in target:
        keep = ~target["crowd"]
        labels, boxes = labels[keep], boxes[keep]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise UserError(
            f"Image {target.get('image_id', '?')} has the label {wrong}; the model has {num_classes} classes, "
            f"numbered 0 to {num_classes - 1}. Correct the annotations."
        )
    return {"labels": labels.to(device), "boxes": boxes.to(device, torch.float32)}
