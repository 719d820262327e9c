import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics as sk
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from vit.tasks.classification.metrics import ClassificationMetrics, wilson_interval
from vit.tasks.evaluation import is_better


def random_set(seed: int, n: int = 300, k: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, K] that are right about half the time, and targets [n]."""
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(k, (n,), generator=g)
    logits = torch.randn(n, k, generator=g)
    logits[torch.arange(n), targets] += 1.3
    return logits, targets


def computed(logits: torch.Tensor, targets: torch.Tensor, multilabel: bool = False) -> dict:
    metrics = ClassificationMetrics(logits.shape[1], multilabel)
    metrics.update(logits, targets)
    return metrics.compute()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_scikit_learn(seed: int):
    logits, targets = random_set(seed)
    result = computed(logits, targets)
    predicted, truth = logits.argmax(1).numpy(), targets.numpy()
    assert result["n"] == 300
    assert result["top1"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert result["top5"] == pytest.approx(sk.top_k_accuracy_score(truth, logits.numpy(), k=5, labels=range(7)))
    assert result["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    assert result["loss"] == pytest.approx(sk.log_loss(truth, logits.softmax(1).numpy()), rel=1e-5)
    assert result["confusion"] == sk.confusion_matrix(truth, predicted).tolist()
    rows = sk.precision_recall_fscore_support(truth, predicted)
    for entry, *expected in zip(result["per_class"].values(), *rows, strict=True):
        assert [entry[key] for key in ("precision", "recall", "f1", "n")] == pytest.approx(expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_torchmetrics(seed: int):
    logits, targets = random_set(seed, k=4)
    result = computed(logits, targets)
    assert result["top1"] == pytest.approx(float(MulticlassAccuracy(4, average="micro")(logits, targets)))
    assert result["macro_f1"] == pytest.approx(float(MulticlassF1Score(4)(logits, targets)))
    expected = MulticlassCalibrationError(4, n_bins=15)(logits, targets)
    assert result["ece"] == pytest.approx(float(expected), abs=1e-6)


def test_macro_f1_leaves_out_classes_that_never_occur():
    logits, targets = random_set(0)
    wide = torch.cat([logits, torch.full((len(logits), 2), -20.0)], dim=1)
    result = computed(wide, targets)
    assert result["macro_f1"] == pytest.approx(computed(logits, targets)["macro_f1"])
    assert result["per_class"]["8"] == {"precision": None, "recall": None, "f1": None, "n": 0}


def test_calibration_error_by_hand():
    # Confidence .8 twice, right once: |.5 - .8| of two thirds; confidence .6 once, right: |1 - .6| of one third.
    p = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    assert computed(p.log(), torch.tensor([0, 1, 1]))["ece"] == pytest.approx((2 * 0.3 + 0.4) / 3, abs=1e-6)


def test_certainty_shares_the_last_bin():
    """A wrong answer at 1.0 and a right one at .98: in one bin the error is |.5 - .99|, in two it would be .51."""
    logits = torch.tensor([[200.0, 0.0], [math.log(0.98), math.log(0.02)]])
    assert computed(logits, torch.tensor([1, 0]))["ece"] == pytest.approx(0.49, abs=1e-5)


def test_fewer_than_five_classes():
    logits, targets = random_set(0, k=3)
    assert computed(logits, targets)["top5"] == 1.0


@pytest.mark.parametrize("right, n", [(0, 10), (10, 10), (985, 1000), (1, 3)])
def test_wilson_interval_agrees_with_scipy(right: int, n: int):
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson_interval(right, n) == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_wilson_interval_of_nothing_is_undefined():
    assert wilson_interval(0, 0) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_logits_are_counted_and_wrong(bad: float):
    """FAULTS 46: argmax over NaN names the NaN's own column, here the right one every time."""
    targets = torch.arange(6) % 3
    logits = torch.nn.functional.one_hot(targets, 3).float() * 9
    logits[:4][torch.arange(4), targets[:4]] = bad
    result = computed(logits, targets)
    assert (result["n"], result["nonfinite"]) == (6, 4)
    assert result["top1"] == result["top5"] == pytest.approx(2 / 6)
    assert result["macro_f1"] < 1
    assert sum(map(sum, result["confusion"])) == 2
    assert [entry["recall"] for entry in result["per_class"].values()] == [0, 0.5, 0.5]


def test_nothing_but_nan():
    result = computed(torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.int64))
    assert (result["top1"], result["top5"], result["macro_f1"]) == (0, 0, 0)
    assert result["ece"] is None and result["loss"] is None


@pytest.mark.parametrize("multilabel", [False, True])
def test_no_images_is_undefined_and_never_best(multilabel: bool):
    """FAULTS 47."""
    result = ClassificationMetrics(3, multilabel).compute()
    assert result["n"] == 0
    for key in ("top1", "top5", "top1_ci95", "macro_f1", "ece", "loss"):
        assert result[key] is None
    assert not is_better(result["top1"], None)
    json.dumps(result, allow_nan=False)


def test_is_better():
    assert is_better(0.5, None) and is_better(0.5, math.nan) and is_better(0.5, 0.4) and is_better(0.4, 0.5, lower=True)
    assert not is_better(None, 0.1) and not is_better(math.nan, 0.1) and not is_better(0.4, 0.4)


@pytest.mark.parametrize("multilabel", [False, True])
def test_batches_and_ranks_do_not_change_the_result(multilabel: bool):
    logits, targets = random_set(3, n=101)
    if multilabel:
        targets = (torch.rand(101, 7, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    whole = computed(logits, targets, multilabel)
    ranks = [ClassificationMetrics(7, multilabel) for _ in range(4)]
    for r, metrics in enumerate(ranks[:3]):  # the fourth rank has seen nothing
        for i in range(r, 101, 3 * 8):
            rows = slice(i, i + 3 * 8, 3)
            metrics.update(logits[rows], targets[rows])
    merged = ranks[0].merged([metrics.state() for metrics in ranks]).compute()
    # The loss is a mean of floats, whose last digit depends on the order.
    for result in (whole, merged):
        result["loss"], result["ece"] = round(result["loss"], 6), round(result["ece"], 6)
    assert merged == whole


def test_half_precision_logits():
    logits, targets = random_set(0)
    result = computed(logits.bfloat16(), targets)
    assert result["top1"] == pytest.approx(float((logits.bfloat16().argmax(1) == targets).float().mean()))


def test_class_names():
    metrics = ClassificationMetrics(["cat", "dog"])
    metrics.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert metrics.compute()["per_class"]["cat"] == {"precision": 1, "recall": 1, "f1": 1, "n": 1}


def test_what_does_not_fit_is_refused():
    metrics = ClassificationMetrics(3)
    with pytest.raises(ValueError, match="do not fit"):
        metrics.update(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="do not fit"):
        metrics.update(torch.zeros(2, 3), torch.zeros(2, 3))
    metrics.update(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        metrics.compute()


@pytest.mark.parametrize("seed", [0, 1])
def test_multilabel_agrees_with_scikit_learn(seed: int):
    rng = np.random.default_rng(seed)
    truth = (rng.random((200, 5)) < 0.3).astype(int)
    logits = rng.normal(size=(200, 5)) + 1.5 * truth - 0.7
    result = computed(torch.from_numpy(logits), torch.from_numpy(truth), multilabel=True)
    predicted = (logits > 0).astype(int)
    assert result["map"] == pytest.approx(sk.average_precision_score(truth, logits, average="macro"), abs=1e-6)
    assert result["micro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="micro"))
    assert result["macro_f1"] == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    assert result["exact"] == pytest.approx(sk.accuracy_score(truth, predicted))
    each = sk.average_precision_score(truth, logits, average=None)
    assert [entry["ap"] for entry in result["per_class"].values()] == pytest.approx(each, abs=1e-6)
    assert result["top1"] is None and result["confusion"] is None


def test_multilabel_nan_is_wrong_in_every_label():
    truth = torch.tensor([[1, 0], [1, 0], [0, 1]])
    logits = (truth * 2.0 - 1) * 9
    logits[0] = math.nan
    result = computed(logits, truth, multilabel=True)
    assert (result["n"], result["nonfinite"], result["exact"]) == (3, 1, pytest.approx(2 / 3))
    assert result["per_class"]["0"] == {"precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3), "n": 2, "ap": 0.5}
    assert result["per_class"]["1"]["precision"] == 0.5


def test_multilabel_class_without_positives_is_undefined():
    truth = torch.tensor([[1, 0], [0, 0]])
    result = computed((truth * 2.0 - 1) * 9, truth, multilabel=True)
    assert result["per_class"]["1"]["ap"] is None
    assert result["map"] == 1
