"""Run from outside the repository, where `datasets` is not ours: the values of transformers' loss for LW-DETR, and of
its matchability-aware classification loss for DEIMv2 on the same matches.

Arguments: a file of inputs, a file for the answers.
"""

import sys
import types
import warnings

warnings.filterwarnings("ignore")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.loss.loss_deimv2 import Deimv2Loss  # noqa: E402
from transformers.loss.loss_lw_detr import LwDetrHungarianMatcher, LwDetrImageLoss  # noqa: E402

values = load_file(sys.argv[1])
groups = int(values["groups"])
targets = [{"class_labels": values[f"labels.{i}"], "boxes": values[f"boxes.{i}"]} for i in range(int(values["images"]))]
logits = values["logits"].requires_grad_()
boxes = values["pred_boxes"].requires_grad_()
outputs = {"logits": logits, "pred_boxes": boxes}
matcher = LwDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
loss = LwDetrImageLoss(matcher, logits.shape[-1], 0.25, ["labels", "boxes"], groups)
terms = loss(outputs, targets)
total = terms["loss_ce"] + 5 * terms["loss_bbox"] + 2 * terms["loss_giou"]
total.backward()
gradients = {"logits.grad": logits.grad.clone(), "boxes.grad": boxes.grad.clone()}

# The method alone, with gamma 1.5 as in the paper; the rest of the loss wants the outputs of DEIMv2's decoder.
own = types.SimpleNamespace(
    num_classes=logits.shape[-1],
    gamma=1.5,
    mal_alpha=None,
    _get_source_permutation_idx=loss._get_source_permutation_idx,
)
count = max(1, groups * sum(len(target["class_labels"]) for target in targets))
logits.grad = None
mal = Deimv2Loss.loss_labels_mal(own, outputs, targets, matcher(outputs, targets, groups), count)["loss_mal"]
mal.backward()
save_file(
    {
        "mal": mal.detach(),
        "mal.grad": logits.grad,
        "class": terms["loss_ce"].detach(),
        "l1": 5 * terms["loss_bbox"].detach(),
        "giou": 2 * terms["loss_giou"].detach(),
        **gradients,
    },
    sys.argv[2],
)
