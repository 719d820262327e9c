"""Boxes follow their pixels through every pipeline: colored rectangles are drawn, augmented, and found again."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.data.colored import Colored, assert_shown, drawn_at_random
from tests.data.loading import training
from vit.data.augment import canvas
from vit.data.augment.boxes import BOX_AUGMENTS, BoxAugment, BoxPipeline
from vit.data.augment.crop import TRIES
from vit.data.augment.mosaic import safe_crop
from vit.data.load.box_reader import BoxReader
from vit.data.load.loader import LoaderOptions, train_loader
from vit.data.load.sampling import derive_seed
from vit.images.preprocess import Preprocess

SEEDS = st.integers(0, 2**63 - 1)
SIZE = (96, 128)
GEOMETRY = {name: replace(augment, brightness=0, contrast=0, saturation=0, hue=0) for name, augment in (
    *BOX_AUGMENTS.items(),
    ("crop", replace(BOX_AUGMENTS["strong"].unmixed(), crop=1.0)),
    ("mosaic", replace(BOX_AUGMENTS["strong"], mosaic=1.0, mixup=0.0, paste=0.0)),
    ("mixup", replace(BOX_AUGMENTS["strong"], mosaic=0.0, mixup=1.0, paste=0.0)),
    ("paste", replace(BOX_AUGMENTS["strong"], mosaic=0.0, mixup=0.0, paste=1.0)),
)}  # fmt: skip
"""Without changes of color, so that a class is a channel; strong's parts also by themselves."""
LEAST = {"paste": 0.6, "strong": 0.5}
"""Share of a box's pixels that must show its color: pasted objects may cover 30 % of one, and their edges fade."""


def pipeline(name: str, resize: str) -> BoxPipeline:
    # Black where there is no image.
    return BoxPipeline(GEOMETRY[name], Preprocess(SIZE, resize=resize, interpolation="bilinear", mean=(0, 0, 0)))


@pytest.mark.parametrize("name", GEOMETRY)
@given(seed=SEEDS, data=st.integers(0, 10**6), resize=st.sampled_from(["squash", "letterbox"]))
@settings(max_examples=25, deadline=None)
def test_boxes_lie_where_their_pixels_are(name: str, seed: int, data: int, resize: str):
    images = drawn_at_random(data)
    done = pipeline(name, resize).read(images, data % 5, seed)
    height, width = SIZE
    assert done.pixels.shape == (height, width, 3) and done.pixels.dtype == np.uint8
    assert done.boxes.shape == (len(done.rows), 4) and done.boxes.dtype == np.float32
    assert done.original_size == images.sizes[data % 5]
    assert (done.boxes >= 0).all() and (done.boxes <= [width, height, width, height]).all()
    assert (done.boxes[:, 2:] > done.boxes[:, :2]).all()
    assert_shown(images, done, LEAST.get(name, 0.95))


@pytest.mark.parametrize("name", GEOMETRY)
@given(seed=SEEDS, data=st.integers(0, 10**6), resize=st.sampled_from(["squash", "letterbox"]))
@settings(max_examples=10, deadline=None)
def test_a_sample_is_a_function_of_its_seed_and_the_data_alone(name: str, seed: int, data: int, resize: str):
    images = drawn_at_random(data)
    one, other = pipeline(name, resize), pipeline(name, resize)
    expected = one.read(images, 0, seed)
    other.read(images, 1, seed ^ 1)
    for a, b in zip(expected, other.read(drawn_at_random(data), 0, seed), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", GEOMETRY)
@given(seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_images_without_boxes(name: str, seed: int):
    images = Colored([(40, 30), (30, 50)], [[], []])
    done = pipeline(name, "letterbox").read(images, 0, seed)
    assert done.boxes.shape == (0, 4) and len(done.rows) == len(done.owners) == done.dropped == 0
    assert not done.pixels.any()


@pytest.mark.parametrize("name", BOX_AUGMENTS)
def test_what_shows_no_image_has_the_color_it_has_in_evaluation(name: str):
    mean = (0.2, 0.5, 0.7)
    images = Colored([(20, 60)] * 4, [[]] * 4)
    for seed in range(12):
        done = BoxPipeline(BOX_AUGMENTS[name], Preprocess(SIZE, resize="letterbox", mean=mean)).read(images, 0, seed)
        colors = np.unique(done.pixels.reshape(-1, 3), axis=0)
        # The images are black, in any light; through mixup one may shine on what is empty in the other.
        assert (colors == np.rint(np.array(mean) * 255)).all(axis=1).any()
        assert len(colors) <= (4 if name == "strong" else 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
@pytest.mark.parametrize("name", BOX_AUGMENTS)
def test_row_31_extreme_shapes(name: str, shape: tuple[int, int]):
    height, width = shape
    images = Colored([shape] * 3, [[(0, 0, width, height)]] * 3)
    for seed in range(8):
        for resize in ("squash", "letterbox"):
            done = BoxPipeline(BOX_AUGMENTS[name], Preprocess((32, 48), resize=resize)).read(images, 0, seed)
            assert done.pixels.shape == (32, 48, 3) and np.isfinite(done.boxes).all()


@given(seed=SEEDS, data=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_safe_crop_cuts_no_object_and_shows_one_at_least(seed: int, data: int):
    images = drawn_at_random(data, n=1, most=12, empty=0.0)
    (size,), boxes = images.sizes, images.boxes[0]
    rng = np.random.default_rng(seed)
    left, top, right, bottom = safe_crop(size, boxes, rng.random((TRIES, 4)), rng.random())
    assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
    meets = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < bottom) & (boxes[:, 3] > top)
    within = (boxes[:, :2] >= [left, top]).all(axis=1) & (boxes[:, 2:] <= [right, bottom]).all(axis=1)
    assert (meets == within).all() and within.any()


def test_safe_crops_are_often_smaller_than_the_image():
    images = Colored([(100, 100)], [[(45, 45, 55, 55)]])
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(100):
        left, top, right, bottom = safe_crop((100, 100), images.boxes[0], rng.random((TRIES, 4)), 0.0)
        areas.append((right - left) * (bottom - top) / 10_000)
    assert min(areas) < 0.4 and np.mean(areas) < 0.8


@given(seed=SEEDS, data=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_boxes_are_dropped_below_the_visible_share_and_counted(seed: int, data: int):
    rng = np.random.default_rng(data)
    corner = rng.uniform(-60, 100, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 80, (20, 2))], axis=1).astype(np.float32)
    crowd = rng.random(20) < 0.3
    cut, rows, dropped = canvas.visible(boxes, (0, 0, 90, 70), crowd)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    shown = np.maximum(np.minimum(boxes[:, 2:], [90, 70]) - np.maximum(boxes[:, :2], 0), 0).prod(axis=1)
    assume((np.abs(shown / area - canvas.VISIBLE) > 1e-4).all())
    stays = np.where(crowd, shown > 0, shown > canvas.VISIBLE * area)
    assert rows.tolist() == np.flatnonzero(stays).tolist()
    assert dropped == ((shown > 0) & ~stays).sum()
    assert (cut[rows] >= 0).all() and (cut[rows] <= [90, 70, 90, 70]).all()


@pytest.mark.parametrize("name", ["lsj", "strong", "paste"])
def test_row_16_crowds_stay_marked_and_are_never_what_is_pasted(name: str):
    crowd = [np.array([True, False])] * 4
    images = Colored([(60, 60)] * 4, [[(0, 0, 30, 60), (40, 10, 55, 30)]] * 4, crowd=crowd)
    alone = Colored([(60, 60)] * 4, [[(0, 0, 30, 60)]] * 4, crowd=[np.array([True])] * 4)
    seen = []
    for seed in range(40):
        done = pipeline(name, "letterbox").read(images, 0, seed)
        seen += done.rows.tolist()
        # Nothing but crowds to choose from: nothing is pasted.
        assert len(pipeline("paste", "letterbox").read(alone, 0, seed).rows) <= 1
    assert {0, 1} == set(seen)


def batches(name: str, images: Colored, **options):
    preprocess = Preprocess((32, 48), resize="letterbox")
    return training(images, BoxPipeline(BOX_AUGMENTS[name], preprocess), **{"batch_size": 4, "epochs": 2, **options})


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.images, b.images) and np.array_equal(a.index, b.index)
        for s, t in zip(a.targets, b.targets, strict=True):
            assert all(np.array_equal(s[key], t[key]) for key in ("boxes", "labels", "crowd", "image_id"))


@pytest.mark.parametrize("workers", [1, 4])
def test_row_63_any_number_of_workers_mixes_the_same_images(workers: int):
    images = drawn_at_random(3, n=10)
    assert_same(list(batches("strong", images)), list(batches("strong", images, workers=workers)))


def test_row_38_resumed_and_row_41_shared_runs_see_what_they_would_have_seen():
    images = drawn_at_random(4, n=12)
    whole = list(batches("strong", images, seed=5))
    assert_same(whole[4:], list(batches("strong", images, seed=5, start_step=4)))
    for rank in range(2):
        mine = list(batches("strong", images, seed=5, rank=rank, world=2))
        for a, b in zip(whole, mine, strict=True):
            assert np.array_equal(a.images[rank::2], b.images)


def test_epochs_differ():
    images = drawn_at_random(4, n=4)
    first, second = batches("strong", images)
    assert not np.array_equal(first.images[first.index.argsort()], second.images[second.index.argsort()])


def test_labels_of_other_images_come_along_and_nothing_is_mixed_at_the_end():
    images = drawn_at_random(8, n=8, empty=0.0)
    preprocess = Preprocess((32, 48), resize="letterbox")
    augment = replace(BOX_AUGMENTS["strong"], mosaic=1.0)
    loader = train_loader(
        BoxReader(images, preprocess, BoxPipeline(augment, preprocess), unmixed=0.4),
        LoaderOptions(batch_size=4, epochs=5),
    )
    plain = train_loader(
        BoxReader(images, preprocess, BoxPipeline(augment.unmixed(), preprocess)), LoaderOptions(batch_size=4, epochs=5)
    )
    steps = list(zip(loader, plain, strict=True))
    counts = [[len(target["labels"]) for target in batch.targets] for batch, _ in steps]
    own = [[len(images.boxes[i]) for i in batch.index.tolist()] for batch, _ in steps]
    mixed = [np.sum(got) > np.sum(single) for got, single in zip(counts, own, strict=True)]
    assert len(steps) == 10 and sum(mixed[:6]) >= 5 and not any(mixed[6:])
    assert_same(*([pair[k] for pair in steps[6:]] for k in (0, 1)))
    # A resumed run closes at the same step.
    rest = train_loader(
        BoxReader(images, preprocess, BoxPipeline(augment, preprocess), unmixed=0.4),
        LoaderOptions(batch_size=4, epochs=5, start_step=5),
    )
    assert_same([batch for batch, _ in steps[5:]], list(rest))


def test_an_image_that_cannot_be_mixed_in_is_told_and_another_takes_its_place():
    whole = drawn_at_random(8, n=6, empty=0.0)
    images = Colored(whole.sizes, whole.boxes, broken=(2,))
    for seed in range(30):
        done = pipeline("mosaic", "letterbox").read(images, 0, seed)
        assert 2 not in done.owners
        assert {i for i, _ in done.bad} <= {2}
        if done.bad:
            break
    else:
        raise AssertionError("image 2 was never asked for")
    loader = batches("strong", images, batch_size=2, epochs=3)
    list(loader)
    assert [bad.name for bad in loader.bad] == ["colored/2"]


def test_what_augmentation_drops_is_told_once_after_an_epoch():
    images = drawn_at_random(5, n=12, empty=0.0)
    preprocess = Preprocess((32, 48), resize="letterbox")
    zoom = BoxPipeline(BoxAugment(jitter=(2.0, 3.0)), preprocess)
    told: list[str] = []
    options = {"batch_size": 4, "epochs": 4, "log": told.append}
    kept = 0
    for step, batch in enumerate(training(images, zoom, **options), 1):
        kept += sum(len(target["labels"]) for target in batch.targets) if step <= 3 else 0
        assert len(told) == (step >= 3)
    (line,) = told
    dropped = sum(zoom.read(images, i, derive_seed(0, 0, i, 0)).dropped for i in range(12))
    assert dropped > 0 and line.startswith(f"Augmentation: of {kept + dropped:,} boxes in an epoch {dropped:,} (")
    assert line.endswith("were cut to less than 20% of their area and left out.")
    quiet: list[str] = []
    list(batches("none", images, log=quiet.append))
    assert quiet == []
