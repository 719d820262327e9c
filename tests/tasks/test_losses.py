"""Losses against torch's and timm's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from vit.tasks.classification.loss import ClassificationLoss
from vit.tasks.facts import inverse_frequency

B, K = 6, 4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def logits():
    return 3 * torch.randn(B, K)


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 1, 3, 0, 2])


def only(terms, name):
    assert list(terms) == [name]
    return terms[name]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_class_an_image(logits, labels, smoothing):
    ours = only(ClassificationLoss(K, label_smoothing=smoothing)(logits, labels), "cross_entropy")
    torch.testing.assert_close(ours, LabelSmoothingCrossEntropy(smoothing)(logits, labels))


def test_mixed_targets(logits):
    targets = torch.rand(B, K).softmax(-1)
    ours = only(ClassificationLoss(K)(logits, targets), "cross_entropy")
    torch.testing.assert_close(ours, SoftTargetCrossEntropy()(logits, targets))


def test_mixed_targets_are_smoothed_as_labels_are(logits, labels):
    loss = ClassificationLoss(K, label_smoothing=0.2)
    one_hot = F.one_hot(labels, K).float()
    torch.testing.assert_close(loss(logits, one_hot), loss(logits, labels))


def test_class_weights(logits, labels):
    weights = torch.tensor([1.0, 2.0, 0.0, 4.0])
    ours = only(ClassificationLoss(K, class_weights=weights)(logits, labels), "cross_entropy")
    each = -logits.log_softmax(1)[torch.arange(B), labels] * weights[labels]
    torch.testing.assert_close(ours, each.sum() / weights[labels].sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_several_classes_an_image(logits, smoothing):
    targets = (torch.rand(B, K) > 0.5).float()
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    loss = ClassificationLoss(K, multilabel=True, label_smoothing=smoothing, class_weights=weights)
    p = logits.double().sigmoid()
    soft = targets.double() * (1 - smoothing) + smoothing / 2
    expected = -(weights * (soft * p.log() + (1 - soft) * (1 - p).log())).mean()
    torch.testing.assert_close(only(loss(logits, targets), "bce"), expected.float())


def test_l1_is_of_the_trained_matrices_and_has_their_sign_as_gradient(logits, labels):
    model = nn.Sequential(nn.Linear(3, K), nn.LayerNorm(K), nn.Linear(K, K))
    model[2].requires_grad_(False)
    terms = ClassificationLoss(K, l1=0.01)(logits, labels, model)
    assert list(terms) == ["cross_entropy", "l1"]
    torch.testing.assert_close(terms["l1"], 0.01 * model[0].weight.abs().sum())
    terms["l1"].backward()
    torch.testing.assert_close(model[0].weight.grad, 0.01 * model[0].weight.sign())
    assert model[0].bias.grad is None and model[1].weight.grad is None and model[2].weight.grad is None


def test_half_precision_logits_are_summed_in_fp32(logits, labels):
    loss = ClassificationLoss(K)
    terms = loss(logits.bfloat16(), labels)
    assert terms["cross_entropy"].dtype == torch.float32
    torch.testing.assert_close(terms, loss(logits.bfloat16().float(), labels))


def test_class_weights_are_no_part_of_a_checkpoint():
    assert not ClassificationLoss(K, class_weights=torch.ones(K)).state_dict()


def test_inverse_frequency_is_sklearns_balanced():
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 7 + [1] * 2 + [2])
    ours = inverse_frequency(torch.bincount(labels, minlength=4))
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    torch.testing.assert_close(ours, torch.tensor([*theirs, 0.0]).float())
    assert float(ours[labels].mean()) == pytest.approx(1)
