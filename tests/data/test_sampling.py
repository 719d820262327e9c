"""The order of samples: stateless, the same for any number of ranks, resumable at any step (row 41)."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit.data.load.sampling import (
    TrainBatches,
    balanced_weights,
    derive_seed,
    epoch_order,
    repeat_factors,
    repeated_order,
)
from vit.errors import UserError


def flat(batches):
    return [draw for batch in batches for draw in batch]


def test_an_epoch_is_a_permutation_and_epochs_differ():
    first, second = epoch_order(100, 0, 0), epoch_order(100, 0, 1)
    np.testing.assert_array_equal(np.sort(first), np.arange(100))
    assert (first != second).any() and (first != epoch_order(100, 1, 0)).any()
    np.testing.assert_array_equal(first, epoch_order(100, 0, 0))


def test_the_order_is_uniform():
    # Each of 5 images comes first in a fifth of the epochs: chi-squared with 4 degrees of freedom, p = 0.001.
    counts = np.bincount([epoch_order(5, 0, epoch)[0] for epoch in range(2000)], minlength=5)
    assert ((counts - 400) ** 2 / 400).sum() < 18.5


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(4, 60),
    batch=st.integers(4, 20),
    epochs=st.integers(1, 4),
    world=st.integers(1, 4),
    start=st.integers(0, 10),
)
def test_row_41_ranks_share_one_global_order_from_any_start(n, batch, epochs, world, start):
    whole = list(TrainBatches(n, batch, epochs))
    per_rank = [
        list(TrainBatches(n, batch, epochs, rank=rank, world=world).starting_at(start)) for rank in range(world)
    ]
    rest = whole[start:]
    assert all(len(batches) == len(rest) for batches in per_rank)
    for step, expected in enumerate(rest):
        # zip_longest puts the ranks' samples back in order: rank r has every world-th from r.
        columns = itertools.zip_longest(*(batches[step] for batches in per_rank))
        assert [draw for column in columns for draw in column if draw is not None] == expected


def test_length_and_last_short_batch():
    batches = TrainBatches(10, 4, 3)
    assert len(batches) == 6 and batches.steps_per_epoch == 2
    assert all(len(batch) == 4 for batch in batches)
    small = TrainBatches(3, 8, 2)
    assert [sorted(draw.index for draw in batch) for batch in small] == [[0, 1, 2]] * 2
    assert len(TrainBatches(10, 4, 3).starting_at(9)) == 0


def test_no_image_comes_twice_in_an_epoch():
    draws = flat(TrainBatches(50, 7, 2))
    for epoch in (0, 1):
        indices = [draw.index for draw in draws if draw.epoch == epoch]
        assert len(indices) == len(set(indices)) == 49


def test_what_cannot_be_batched_is_refused():
    with pytest.raises(UserError, match="training set is empty"):
        TrainBatches(0, 8, 1)
    with pytest.raises(UserError, match="at least 1, not 0"):
        TrainBatches(5, 0, 1)
    with pytest.raises(UserError, match="A batch of 3 images cannot be shared by 4"):
        TrainBatches(3, 8, 1, world=4)


def test_balanced_sampling_draws_every_class_equally():
    targets = np.array([0] * 900 + [1] * 90 + [2] * 10)
    weights = balanced_weights(targets, 4)
    drawn = targets[np.concatenate([epoch_order(1000, 0, epoch, weights) for epoch in range(20)])]
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), 1 / 3, atol=0.015)


def test_balanced_multi_label_takes_the_rarest_label():
    targets = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [0, 0]], np.float32)
    np.testing.assert_allclose(balanced_weights(targets, 2), [0.25, 0.25, 0.25, 1, 0.4375])


def test_repeated_draws_are_numbered():
    weights = np.array([1.0, 0, 0, 1.0])
    draws = flat(TrainBatches(4, 4, 50, weights=weights))
    assert {draw.index for draw in draws} == {0, 3}
    assert len(set(draws)) == len(draws)
    assert max(draw.repeat for draw in draws) == 3


def test_seeds_do_not_collide():
    seeds = {derive_seed(seed, epoch, index) for seed in range(4) for epoch in range(10) for index in range(500)}
    assert len(seeds) == 4 * 10 * 500
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_repeat_factors_are_those_of_lvis():
    """By the formula of Gupta et al. 2019, written out; images without boxes come once."""
    rng = np.random.default_rng(0)
    n, classes = 40, 5
    rows = [(i, k) for i in range(n) for k in range(classes) if rng.random() < (0.9, 0.5, 0.2, 0.05, 0)[k]]
    rows += rows[:10]  # a second object of a class in an image changes nothing
    images, labels = np.array(rows).T
    share = {k: len({i for i, label in rows if label == k}) / n for k in range(classes)}
    expected = [max([1.0] + [max(1.0, (0.3 / share[k]) ** 0.5) for i, k in rows if i == image]) for image in range(n)]
    np.testing.assert_allclose(repeat_factors(images, labels, n, classes, 0.3), expected)
    assert expected != [1.0] * n
    median = float(np.median([share[k] for k in range(4)]))
    by_default = repeat_factors(images, labels, n, classes)
    np.testing.assert_array_equal(by_default, repeat_factors(images, labels, n, classes, median))
    nothing = np.empty(0, np.int64)
    np.testing.assert_array_equal(repeat_factors(nothing, nothing, 3, classes), [1, 1, 1])


@settings(max_examples=60, deadline=None)
@given(repeats=st.lists(st.floats(1, 9), min_size=1, max_size=30), epoch=st.integers(0, 50))
def test_every_image_comes_as_often_as_asked_rounded(repeats, epoch):
    factors = np.array(repeats)
    order = repeated_order(factors, 3, epoch)
    assert len(order) == math.ceil(factors.sum())
    counts = np.bincount(order, minlength=len(factors))
    scaled = factors * len(order) / factors.sum()
    assert (counts >= np.floor(scaled - 1e-6)).all() and (counts <= np.ceil(scaled + 1e-6)).all() and counts.min() >= 1
    np.testing.assert_array_equal(order, repeated_order(factors, 3, epoch))


def test_repeats_are_right_on_average_and_shuffled():
    factors = np.array([1.0, 1.3, 2.5, 1.2])  # their sum is whole: nothing is scaled
    orders = [repeated_order(factors, 0, epoch) for epoch in range(2000)]
    counts = np.mean([np.bincount(order, minlength=4) for order in orders], axis=0)
    np.testing.assert_allclose(counts, factors, atol=0.05)  # 4.5 standard errors
    first = np.bincount([order[0] for order in orders], minlength=4) / 2000
    np.testing.assert_allclose(first, factors / 6, atol=0.05)


def test_repeated_images_get_their_own_augmentation_and_resume():
    factors = np.array([1.0, 1.0, 3.4, 1.6])
    whole = list(TrainBatches(4, 2, 3, repeats=factors))
    assert len(whole) == 3 * (7 // 2)
    for epoch in range(3):
        draws = [draw for draw in flat(whole) if draw.epoch == epoch]
        assert len(set(draws)) == len(draws)
    assert list(TrainBatches(4, 2, 3, repeats=factors).starting_at(4)) == whole[4:]
