"""One-to-one matching of predictions and objects per group (DETR, Carion et al. 2020, eq. 1).

Letters: B batch, G groups, Q queries of one group, C classes, n objects of one image, S objects of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vit.detector.boxes import giou, to_xyxy

_EMPTY = np.empty(0, np.int64)


class Matches(NamedTuple):
    """Prediction `query[i]` of image `image[i]` is matched to object `target[i]`; all int64 [M]."""

    image: Tensor
    query: Tensor
    target: Tensor
    """Position among all objects of the batch, in image order."""


@dataclass(frozen=True)
class Matcher:
    """Weights of the three costs: focal classification (Lin et al. 2017), L1 of cxcywh, and negative GIoU."""

    class_cost: float = 2.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, targets: Sequence[dict[str, Any]], groups: int = 1) -> Matches:
        """logits [B, G * Q, C], boxes cxcywh [B, G * Q, 4]; targets with `boxes` [n, 4] and `labels` [n].

        Each group is matched to all objects. With more objects than queries, the costliest stay unmatched.
        """
        counts = [len(target["labels"]) for target in targets]
        costs = [
            self.cost(logits[i], boxes[i], target["labels"], target["boxes"]).flatten()
            for i, target in enumerate(targets)
        ]
        total, per_group = logits.shape[1], logits.shape[1] // groups
        # One transfer from the device for the whole batch.
        flat = torch.cat(costs).cpu().split([total * n for n in counts])
        images, queries, objects = [_EMPTY], [_EMPTY], [_EMPTY]
        for i, (cost, n) in enumerate(zip(flat, counts, strict=True)):
            for g, part in enumerate(cost.numpy().reshape(groups, per_group, n)):
                query, chosen = linear_sum_assignment(part)
                images.append(np.full(len(query), i))
                queries.append(query + g * per_group)
                objects.append(chosen + sum(counts[:i]))
        return Matches(*(torch.from_numpy(np.concatenate(c)).to(logits.device) for c in (images, queries, objects)))

    def cost(self, logits: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor) -> Tensor:
        """logits [N, C] and boxes [N, 4] against n objects -> costs [N, n], always finite."""
        logits = logits.float()[:, labels]  # [N, n]
        p = logits.sigmoid()
        # Stable forms of -log(p) and -log(1 - p).
        present = self.alpha * (1 - p) ** self.gamma * F.softplus(-logits)
        absent = (1 - self.alpha) * p**self.gamma * F.softplus(logits)
        boxes, objects = boxes.float(), objects.float()
        l1 = torch.cdist(boxes, objects, p=1)
        overlap = giou(to_xyxy(boxes)[:, None], to_xyxy(objects))
        cost = self.class_cost * (present - absent) + self.l1_cost * l1 - self.giou_cost * overlap
        # Non-finite predictions are matched last; the assignment would reject NaN.
        return torch.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=1e9)
