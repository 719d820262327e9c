"""Mixup and CutMix: the right mixtures, as a pure function of the seed."""

import pytest
import torch

from vit.data.augment.batches import Mix
from vit.errors import UserError

IMAGES = torch.arange(6, dtype=torch.float32).view(6, 1, 1, 1).expand(6, 3, 8, 8).contiguous()
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_targets_have_the_share_of_the_pixels(options):
    mix = Mix(5, **options)
    mixed = 0
    for seed in range(20):
        images, targets = mix(IMAGES, TARGETS, seed)
        assert images.shape == IMAGES.shape and targets.shape == (6, 5)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
        # Image i is the number i everywhere, so the mean of its pixels gives the share of its partner.
        for i in range(6):
            partner = (i - 1) % 6
            share = (images[i].mean() - i) / (partner - i)
            expected = torch.zeros(5)
            expected[TARGETS[i]] += 1 - share
            expected[TARGETS[partner]] += share
            torch.testing.assert_close(targets[i], expected, atol=1e-5, rtol=0)
            mixed += 0.01 < share < 0.99
    assert mixed > 40


def test_cutmix_pastes_and_mixup_blends():
    cut, _ = Mix(5, cutmix=1.0)(IMAGES, TARGETS, 3)
    assert set(cut.unique().tolist()) <= set(range(6))
    blended, _ = Mix(5, mixup=1.0)(IMAGES, TARGETS, 3)
    assert (blended.flatten(1).std(dim=1) < 1e-6).all()
    assert (blended[:, 0, 0, 0] % 1 > 0.01).any()


def test_it_depends_on_the_seed_alone_and_leaves_torch_alone():
    mix = Mix(5, mixup=0.8, cutmix=1.0)
    torch.manual_seed(1)
    first = mix(IMAGES, TARGETS, 11)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = mix(IMAGES, TARGETS, 11)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(first[0], mix(IMAGES, TARGETS, 12)[0])
    assert mix(IMAGES, TARGETS, 2**64 - 1)[0].shape == IMAGES.shape


def test_multi_label_targets_are_mixed_too():
    labels = torch.eye(5)[TARGETS] + torch.eye(5)[(TARGETS + 1) % 5]
    _, targets = Mix(5, mixup=1.0)(IMAGES, labels, 0)
    torch.testing.assert_close(targets.sum(dim=1), torch.full((6,), 2.0))


def test_p_and_switch():
    def kinds(**options):
        mix = Mix(5, mixup=1.0, cutmix=1.0, **options)
        for seed in range(200):
            images, _ = mix(IMAGES, TARGETS, seed)
            if torch.equal(images, IMAGES):
                yield "none"
            else:
                yield "cutmix" if set(images.unique().tolist()) <= set(range(6)) else "mixup"

    assert set(kinds(switch=0.0)) <= {"mixup", "none"}
    assert set(kinds(switch=1.0)) <= {"cutmix", "none"}
    assert 60 < list(kinds(p=0.5)).count("none") < 140
    images, targets = Mix(5, mixup=1.0, p=0.0)(IMAGES, TARGETS, 0)
    assert torch.equal(images, IMAGES) and targets.shape == (6, 5)


def test_wrong_values_are_refused():
    with pytest.raises(UserError, match="0 or above"):
        Mix(5, mixup=-1)
    with pytest.raises(UserError, match=r"mix\.p is a probability"):
        Mix(5, p=2)
