"""Classification metrics, exact over unequal batches and ranks; torchmetrics underneath.

`ClassificationMetrics` keeps one short record per image (predicted class, true class, confidence, ...), not running
means. The records are tensors on the model's device: an update does not synchronize with the GPU, a gather over ranks
is a concatenation, and results do not depend on how images were batched. Letters: n images, K classes.

Undefined values (no images; a class that never occurs) are None: valid in strict JSON, and ranked last by `is_better`.
torchmetrics takes seconds to import, so it is imported when the first result is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vit.tasks.classification.calibration import Outputs

ECE_BINS = 15  # as in Guo et al. 2017, section 4
THRESHOLD = 0.5  # a multi-label class is predicted above this score
Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal
# The largest float32 below 1. torchmetrics would put exactly 1.0 into a bin of its own, and would treat values above 1
# (by rounding) as logits.
BELOW_ONE = 1.0 - 2.0**-24


class ClassificationMetrics:
    """Collects logits and targets; computes top-1, top-5, F1, calibration and more for the whole set.

    Args:
        classes: names for `per_class`, or their number K (then named "0" ... "K-1").
        multilabel: targets are 0/1 over K labels, scored by sigmoids; otherwise one class each, by a softmax.
        keep_logits: keep every logit, for `outputs`.

    A row with a NaN or infinite logit is counted in `nonfinite` and is always wrong: argmax over NaN would name some
    class, at times the right one.
    """

    def __init__(self, classes: Sequence[str] | int, multilabel: bool = False, *, keep_logits: bool = False):
        self.classes = tuple(str(k) for k in range(classes)) if isinstance(classes, int) else tuple(classes)
        self.num_classes = len(self.classes)
        self.multilabel = multilabel
        self.keep_logits = keep_logits
        self._records: list[dict[str, Tensor]] = []

    def reset(self) -> None:
        self._records.clear()

    @torch.no_grad()
    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits float [B, K]; targets int64 [B], or 0/1 [B, K] for multi-label.

        Raises ValueError if a shape does not fit. `compute` checks the values of targets, to avoid a synchronization.
        """
        expected = (len(logits), self.num_classes) if self.multilabel else (len(logits),)
        if logits.shape != (len(logits), self.num_classes) or targets.shape != expected:
            raise ValueError(
                f"Logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not fit "
                f"{self.num_classes} classes{' (multi-label)' if self.multilabel else ''}."
            )
        if not len(logits):
            return
        record = _multilabel_record if self.multilabel else _single_label_record
        self._records.append(record(logits.detach().float(), targets.detach()))
        if self.keep_logits:
            self._records[-1] |= {"logits": logits.detach().float().cpu()}

    def state(self) -> dict[str, Tensor]:
        """Everything collected so far: tensors of n rows, to gather over ranks and pass to `merged`."""
        if not self._records:
            none = torch.zeros(0, self.num_classes)
            return _multilabel_record(none, none) if self.multilabel else _single_label_record(none, none[:, 0])
        return {key: torch.cat([r[key] for r in self._records]) for key in self._records[0]}

    def merged(self, states: Iterable[dict[str, Tensor]], order: Sequence[int] | None = None) -> ClassificationMetrics:
        """A new metric with the rows of all `states` (of every rank, say), in `order`; lengths may differ."""
        whole = ClassificationMetrics(self.classes, self.multilabel, keep_logits=self.keep_logits)
        whole._records = [state for state in states if len(state["finite"])]
        if order is not None and whole._records:
            rows = torch.tensor(order, device=whole._records[0]["finite"].device)
            whole._records = [{key: values[rows] for key, values in whole.state().items()}]
        return whole

    def scalars(self) -> dict[str, Any]:
        """The cheap metrics, for every epoch: numbers only, None if undefined. See `compute` for the keys."""
        return _multilabel_scalars(self) if self.multilabel else _single_label_scalars(self)

    def compute(self) -> dict[str, Any]:
        """All metrics, as plain Python values (strict JSON).

        Single label: n, nonfinite, top1, top5 (top min(5, K)), top1_ci95 [low, high], macro_f1, ece, loss,
        per_class {name: {precision, recall, f1, n}}, confusion (K lists of K counts, row = true, column = predicted;
        rows with a non-finite logit have no column).
        Multi-label: n, nonfinite, map, micro_f1, macro_f1, exact (share of images with every label right), ece,
        loss, per_class {name: {precision, recall, f1, ap, n}}; top1, top5, top1_ci95 and confusion are None.

        macro_f1 is the mean over the classes that occur, in the targets or in the predictions (scikit-learn's rule).
        """
        result = self.scalars()
        counts = self._counts()
        result["per_class"] = {
            name: _precision_recall_f1(*row) for name, row in zip(self.classes, counts.tolist(), strict=True)
        }
        if self.multilabel:
            for entry, ap in zip(result["per_class"].values(), self._average_precisions(), strict=True):
                entry["ap"] = ap
            result["confusion"] = None
        else:
            result["confusion"] = self.confusion().tolist()
        return result

    def confusion(self) -> Tensor:
        """int64 [K, K], row = true class, column = predicted class; on the CPU."""
        if self.multilabel:
            raise ValueError("A confusion matrix needs exactly one true class per image.")
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        state = self._checked()
        if not len(state["target"]):
            return torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        # Class K stands for non-finite logits: the row keeps its true class and matches no prediction.
        matrix = multiclass_confusion_matrix(state["predicted"], state["target"], self.num_classes + 1)
        return matrix[: self.num_classes, : self.num_classes].to("cpu", torch.int64)

    def outputs(self, index: Sequence[int]) -> Outputs:
        """All logits and targets; needs `keep_logits`. index: position in the split of each image."""
        targets = torch.cat([record["target"].cpu() for record in self._records])
        logits = torch.cat([record["logits"] for record in self._records])
        return Outputs(logits, targets.float() if self.multilabel else targets, torch.tensor(index))

    def _checked(self) -> dict[str, Tensor]:
        state = self.state()
        target = state["target"]
        top = 2 if self.multilabel else self.num_classes
        if len(target) and not 0 <= int(target.min()) <= int(target.max()) < top:
            raise ValueError(f"A target lies outside 0..{top - 1}: {int(target.min())}..{int(target.max())}.")
        return state

    def _counts(self) -> Tensor:
        """int64 [K, 3]: true positives, false positives, false negatives."""
        from torchmetrics.functional.classification import multiclass_stat_scores, multilabel_stat_scores

        state = self._checked()
        if not len(state["target"]):
            return torch.zeros(self.num_classes, 3, dtype=torch.int64)
        if self.multilabel:
            wrong = 1 - state["target"]
            predicted = torch.where(state["finite"][:, None], (state["score"] > THRESHOLD).long(), wrong)
            rows = multilabel_stat_scores(predicted, state["target"], self.num_classes, average="none")
        else:
            rows = multiclass_stat_scores(state["predicted"], state["target"], self.num_classes + 1, average="none")[
                : self.num_classes
            ]
        return rows[:, [0, 1, 3]].to("cpu", torch.int64)  # torchmetrics returns tp, fp, tn, fn, support

    def _average_precisions(self) -> list[float | None]:
        """Per class, None without positives. A non-finite row is never retrieved: recall stays below 1."""
        from torchmetrics.functional.classification import binary_average_precision

        state = self._checked()
        result: list[float | None] = []
        for k in range(self.num_classes):
            truth, finite = state["target"][:, k], state["finite"]
            positives, retrievable = int(truth.sum()), int(truth[finite].sum())
            if not positives:
                result.append(None)
            elif not retrievable:
                result.append(0.0)
            else:
                ap = binary_average_precision(state["score"][finite, k], truth[finite])
                result.append(float(ap) * retrievable / positives)
        return result


def wilson_interval(successes: int, n: int, z: float = Z95) -> list[float] | None:
    """Wilson's score interval [low, high] for a proportion; None for n = 0.

    Brown, Cai and DasGupta 2001, "Interval Estimation for a Binomial Proportion", equation 4. Unlike p +- z s it keeps
    its coverage for accuracies near 100 %.
    """
    if n == 0:
        return None
    p = successes / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [max(0.0, center - half), min(1.0, center + half)]


def _single_label_record(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    finite = logits.isfinite().all(1)
    safe = torch.where(finite[:, None], logits, 0.0)
    log_p = safe.log_softmax(1)
    best = log_p.max(1)
    top = safe.topk(min(5, safe.shape[1]), dim=1).indices
    # A target out of range must not crash a GPU kernel here; `_checked` names it.
    inside = targets.clamp(0, safe.shape[1] - 1)
    return {
        "target": targets.long(),
        "predicted": torch.where(finite, best.indices, safe.shape[1]),
        "confidence": best.values.exp().clamp(max=BELOW_ONE),
        "in_top5": (top == targets[:, None]).any(1) & finite,
        "nll": -log_p.gather(1, inside[:, None].long())[:, 0],
        "finite": finite,
    }


def _multilabel_record(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    finite = logits.isfinite().all(1)
    safe = torch.where(finite[:, None], logits, 0.0)
    loss = F.binary_cross_entropy_with_logits(safe, targets.float(), reduction="none").mean(1)
    return {
        "target": targets.long(),
        "score": safe.sigmoid().clamp(max=BELOW_ONE),
        "nll": loss,
        "finite": finite,
    }


def _single_label_scalars(metrics: ClassificationMetrics) -> dict[str, Any]:
    state = metrics._checked()
    n = len(state["target"])
    right = state["predicted"] == state["target"]
    hits = int(right.sum())
    return {
        "n": n,
        "nonfinite": n - int(state["finite"].sum()),
        "top1": hits / n if n else None,
        "top5": int(state["in_top5"].sum()) / n if n else None,
        "top1_ci95": wilson_interval(hits, n),
        "macro_f1": _macro_f1(metrics._counts()),
        "ece": _calibration_error(state["confidence"][state["finite"]], right[state["finite"]]),
        "loss": _mean(state["nll"][state["finite"]]),
    }


def _multilabel_scalars(metrics: ClassificationMetrics) -> dict[str, Any]:
    state = metrics._checked()
    n, finite = len(state["target"]), state["finite"]
    counts = metrics._counts()
    precisions = [ap for ap in metrics._average_precisions() if ap is not None]
    exact = (((state["score"] > THRESHOLD).long() == state["target"]).all(1) & finite).sum()
    return {
        "n": n,
        "nonfinite": n - int(finite.sum()),
        "top1": None,
        "top5": None,
        "top1_ci95": None,
        "map": sum(precisions) / len(precisions) if precisions else None,
        "micro_f1": _precision_recall_f1(*counts.sum(0).tolist())["f1"],
        "macro_f1": _macro_f1(counts),
        "exact": int(exact) / n if n else None,
        # Over all n x K binary predictions: the distance of a label's sigmoid from its frequency.
        "ece": _calibration_error(state["score"][finite].flatten(), state["target"][finite].flatten() == 1),
        "loss": _mean(state["nll"][finite]),
    }


def _calibration_error(confidence: Tensor, right: Tensor) -> float | None:
    """Expected calibration error of top predictions, equal-width bins (Guo et al. 2017, equation 3)."""
    if not len(confidence):
        return None
    from torchmetrics.functional.classification import binary_calibration_error

    # The binary form compares any confidence with how often it was right. float64, because the bins are summed in turn.
    return float(binary_calibration_error(confidence.cpu().double(), right.cpu().long(), n_bins=ECE_BINS))


def _precision_recall_f1(tp: int, fp: int, fn: int) -> dict[str, Any]:
    """Precision is undefined without predictions, recall without true cases; F1 = 2tp / (2tp + fp + fn) only without
    either."""
    return {
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        "n": tp + fn,
    }


def _macro_f1(counts: Tensor) -> float | None:
    scores = [f1 for row in counts.tolist() if (f1 := _precision_recall_f1(*row)["f1"]) is not None]
    return sum(scores) / len(scores) if scores else None


def _mean(values: Tensor) -> float | None:
    return float(values.cpu().double().mean()) if len(values) else None
