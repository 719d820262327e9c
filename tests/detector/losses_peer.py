"""Run from outside the repository, where `datasets` is not ours: the values of transformers' loss for LW-DETR.

Arguments: a file of inputs, a file for the answers.
"""

import sys
import warnings

warnings.filterwarnings("ignore")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.loss.loss_lw_detr import LwDetrHungarianMatcher, LwDetrImageLoss  # noqa: E402

values = load_file(sys.argv[1])
groups = int(values["groups"])
targets = [{"class_labels": values[f"labels.{i}"], "boxes": values[f"boxes.{i}"]} for i in range(int(values["images"]))]
logits = values["logits"].requires_grad_()
boxes = values["pred_boxes"].requires_grad_()
loss = LwDetrImageLoss(
    LwDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2), logits.shape[-1], 0.25, ["labels", "boxes"], groups
)
terms = loss({"logits": logits, "pred_boxes": boxes}, targets)
total = terms["loss_ce"] + 5 * terms["loss_bbox"] + 2 * terms["loss_giou"]
total.backward()
save_file(
    {
        "class": terms["loss_ce"].detach(),
        "l1": 5 * terms["loss_bbox"].detach(),
        "giou": 2 * terms["loss_giou"].detach(),
        "logits.grad": logits.grad,
        "boxes.grad": boxes.grad,
    },
    sys.argv[2],
)
