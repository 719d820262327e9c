from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vit.data.load.label_reader import Batch
from vit.tasks.classification.evaluate import run, summarize
from vit.tasks.classification.metrics import ClassificationMetrics, Outputs
from vit.tasks.classification.neighbors import knn_logits
from vit.tasks.classification.report import worst_mistakes
from vit.tasks.classification.tta import with_tta, zoomed


def metrics_of(logits: torch.Tensor, targets: torch.Tensor) -> ClassificationMetrics:
    metrics = ClassificationMetrics("abc", keep_logits=True)
    metrics.update(logits, targets)
    return metrics


def test_an_evaluation_keeps_the_order_and_counts():
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    index = torch.arange(10).flip(0)
    batches = [Batch(images[i : i + 4], index[i : i + 4] % 3, index[i : i + 4]) for i in (0, 4, 8)]
    predictor = SimpleNamespace(model=torch.nn.Linear(1, 1), classes=("a", "b", "c"), multilabel=False)
    ticks: list[int] = []
    metrics, positions = run(predictor, lambda x: x[:, :, 0, 0], batches, ticks.append)
    outputs = metrics.outputs(positions)
    assert outputs.logits[:, 0].tolist() == list(range(10))
    assert outputs.index.tolist() == index.tolist()
    assert ticks == [4, 8, 10]
    assert outputs.targets.tolist() == (index % 3).tolist()
    assert run(predictor, lambda x: x, [])[1] == []


def test_summary_of_nothing_is_undefined():
    result = summarize(ClassificationMetrics(["a", "b"], keep_logits=True))
    assert result["n"] == 0
    assert result["top1"] is None and result["ece_calibrated"] is None


def test_calibrated_error_is_that_of_the_scaled_logits():
    g = torch.Generator().manual_seed(0)
    logits, targets = 5 * torch.randn(200, 3, generator=g), torch.randint(3, (200,), generator=g)
    result = summarize(metrics_of(logits, targets), temperature=4.0)
    assert result["ece_calibrated"] == pytest.approx(summarize(metrics_of(logits / 4, targets))["ece"])
    assert result["ece"] != pytest.approx(result["ece_calibrated"], abs=0.05)


def test_worst_mistakes_come_first_and_right_answers_not_at_all():
    logits = torch.tensor([[9.0, 0], [3.0, 0], [0, 5.0], [1.0, 0], [float("nan"), 0]])
    outputs = Outputs(logits, torch.tensor([0, 1, 0, 1, 1]), torch.tensor([7, 8, 9, 10, 11]))
    mistakes = worst_mistakes(outputs)
    assert [(m.index, m.true, m.predicted) for m in mistakes] == [(9, 0, 1), (8, 1, 0), (10, 1, 0)]
    assert mistakes[0].score == pytest.approx(1 / (1 + np.exp(-5)))
    assert len(worst_mistakes(outputs, limit=1)) == 1
    assert worst_mistakes(outputs, temperature=5.0)[0].score == pytest.approx(1 / (1 + np.exp(-1)))


@pytest.mark.parametrize("k", [1, 5, 500])
def test_knn_agrees_with_the_loop_of_the_paper(k: int):
    rng = np.random.default_rng(0)
    memory, queries, labels = rng.normal(size=(40, 6)), rng.normal(size=(9, 6)), rng.integers(3, size=40)
    got = knn_logits(*(torch.tensor(x) for x in (queries, memory, labels)), k, num_classes=3)
    for row, query in zip(got.exp().numpy(), queries, strict=True):
        similarity = memory @ query / np.linalg.norm(memory, axis=1) / np.linalg.norm(query)
        votes = np.zeros(3)
        for j in np.argsort(-similarity)[:k]:
            votes[labels[j]] += np.exp(similarity[j] / 0.07)
        assert row == pytest.approx(votes / votes.sum(), abs=1e-5)


def test_knn_multilabel_is_the_weighted_share_of_each_label():
    memory = torch.tensor([[1.0, 0], [0.0, 1]])
    labels = torch.tensor([[1.0, 1, 0], [0.0, 1, 0]])
    share = knn_logits(torch.tensor([[1.0, 1]]), memory, labels, 2, num_classes=3).sigmoid()
    assert share[0].tolist() == pytest.approx([0.5, 1, 0], abs=1e-5)


def test_knn_needs_a_memory():
    with pytest.raises(ValueError, match="memory"):
        knn_logits(torch.zeros(1, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 3, num_classes=2)


def linear(images: torch.Tensor) -> torch.Tensor:
    """Logits that see left from right: the sums of each half."""
    return torch.stack([images[..., :4].sum((1, 2, 3)), images[..., 4:].sum((1, 2, 3))], dim=1)


def test_tta_averages_probabilities():
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    got = with_tta(linear, flip=True, scales=(1.0, 1.3))(images)
    views = [images, zoomed(images, 1.3)]
    views += [view.flip(3) for view in views]
    expected = torch.stack([linear(view).softmax(1) for view in views]).mean(0)
    torch.testing.assert_close(got.softmax(1), expected)
    torch.testing.assert_close(got.exp(), expected)  # normalized: the average is the probability itself


def test_tta_multilabel_averages_sigmoids():
    images = 0.1 * torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    got = with_tta(linear, flip=True, scales=(1.0,), multilabel=True)(images)
    expected = (linear(images).sigmoid() + linear(images.flip(3)).sigmoid()) / 2
    torch.testing.assert_close(got.sigmoid(), expected)


def test_tta_without_flip_never_mirrors():
    images = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(
        with_tta(linear, flip=False, scales=(1.0,))(images).softmax(1), linear(images).softmax(1)
    )


def test_zoom_magnifies_about_the_center():
    image = torch.zeros(1, 3, 16, 16)
    image[:, :, 6:10, 6:10] = 1.0  # a square of side 4 in the middle
    assert zoomed(image, 1.0) is image
    assert zoomed(image, 2.0).sum() == pytest.approx(4 * float(image.sum()), rel=0.1)
    assert zoomed(image, 0.5).sum() < 0.5 * image.sum()
    torch.testing.assert_close(zoomed(image, 2.0), zoomed(image, 2.0).flip(2).flip(3))
