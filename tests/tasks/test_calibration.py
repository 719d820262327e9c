import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from vit.tasks.classification.calibration import fit_temperature
from vit.tasks.classification.metrics import ClassificationMetrics


def sampled(true_temperature: float, n: int = 4000, k: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose honest confidence is softmax(logits / true_temperature), with targets drawn from it."""
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, k, generator=g, dtype=torch.float64)
    return logits, torch.multinomial((logits / true_temperature).softmax(1), 1, generator=g)[:, 0]


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_finds_the_temperature_that_made_the_data(true_temperature: float):
    assert fit_temperature(*sampled(true_temperature)) == pytest.approx(true_temperature, rel=0.06)


@pytest.mark.parametrize("true_temperature", [0.5, 3.0])
def test_agrees_with_scipy(true_temperature: float):
    logits, targets = sampled(true_temperature)
    best = minimize_scalar(
        lambda t: float(F.cross_entropy(logits / t, targets)),
        bounds=(0.1, 10),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit_temperature(logits, targets) == pytest.approx(best.x, rel=1e-6)


def test_multilabel_agrees_with_scipy():
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 4, generator=g, dtype=torch.float64)
    targets = (torch.rand(500, 4, generator=g) < (logits / 2.5).sigmoid()).float()

    def loss(t: float) -> float:
        return float(F.binary_cross_entropy_with_logits(logits / t, targets.double()))

    best = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits, targets) == pytest.approx(best.x, rel=1e-6)


def test_calibration_error_falls_and_predictions_stay():
    logits, targets = sampled(3.0)
    temperature = fit_temperature(logits, targets)
    assert temperature is not None
    results = []
    for scaled in (logits, logits / temperature):
        metrics = ClassificationMetrics(6)
        metrics.update(scaled, targets)
        results.append(metrics.scalars())
    before, after = results
    assert after["ece"] < 0.03 < 0.2 < before["ece"]
    assert after["top1"] == before["top1"]


def test_far_from_one():
    """Newton's first step from 1 leaves the bracket here; bisection takes over."""
    logits, targets = sampled(1.0)
    assert fit_temperature(logits * 1000, targets) == pytest.approx(50)  # the end of the bracket
    assert fit_temperature(logits * 30, targets) == pytest.approx(30 * fit_temperature(logits, targets), rel=1e-6)


def test_undetermined_is_none():
    right = torch.eye(3)
    assert fit_temperature(right, torch.arange(3)) is None  # every answer right
    assert fit_temperature(-right, torch.arange(3)) is None  # worse than chance
    assert fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) is None
    assert fit_temperature(torch.full((2, 3), math.nan), torch.zeros(2, dtype=torch.int64)) is None


def test_non_finite_rows_are_left_out():
    logits, targets = sampled(2.0)
    expected = fit_temperature(logits, targets)
    logits, targets = torch.cat([logits, torch.full((1, 6), math.nan)]), torch.cat([targets, torch.tensor([0])])
    assert fit_temperature(logits, targets) == expected
