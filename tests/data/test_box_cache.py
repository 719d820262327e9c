"""--cache of images with boxes: evaluation to the last bit, boxes where their pixels are, the same samples always."""

from dataclasses import replace

import numpy as np
import pytest

from tests.data.by_hand import Picture, coco
from tests.data.colored import Colored, assert_shown, drawn_at_random
from tests.data.loading import training
from vit.data.augment.boxes import BOX_AUGMENTS, BoxPipeline
from vit.data.load.box_reader import BoxReader
from vit.data.load.loader import LoaderOptions, eval_loader
from vit.data.load.pixel_cache import PixelCache, Prepare
from vit.data.open import open_data
from vit.images.preprocess import Preprocess

INPUT = Preprocess((32, 48), resize="letterbox", interpolation="bilinear", mean=(0, 0, 0))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAL_CACHE", str(tmp_path / "cache"))


def batches(images, name, cache=None, **options):
    pipeline = BoxPipeline(BOX_AUGMENTS[name], INPUT)
    return list(training(images, pipeline, **{"batch_size": 4, "epochs": 2, "cache": cache, **options}))


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.images, b.images) and np.array_equal(a.index, b.index)
        for s, t in zip(a.targets, b.targets, strict=True):
            assert s.keys() == t.keys() and all(np.array_equal(s[key], t[key]) for key in s)


@pytest.mark.parametrize(("kind", "workers"), [("ram", 0), ("disk", 2)])
@pytest.mark.parametrize("resize", ["squash", "letterbox"])
def test_evaluation_is_the_same_to_the_last_bit(kind, workers, resize):
    images, size = drawn_at_random(1, n=9), replace(INPUT, resize=resize)
    plain = list(eval_loader(BoxReader(images, size), LoaderOptions(batch_size=4)))
    kept = PixelCache(kind, 1.0, workers=workers)
    for _ in range(2):
        assert_same(
            plain, list(eval_loader(BoxReader(images, size), LoaderOptions(batch_size=4, workers=workers, cache=kept)))
        )


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_training_without_augmentation_is_the_same_to_the_last_bit(kind):
    images = drawn_at_random(2, n=9)
    assert_same(batches(images, "none"), batches(images, "none", PixelCache(kind, 1.0)))


@pytest.mark.parametrize("resize", ["squash", "letterbox"])
@pytest.mark.parametrize("name", ["light", "lsj", "strong"])
def test_boxes_lie_where_their_pixels_are(name, resize):
    plain = replace(BOX_AUGMENTS[name], brightness=0, contrast=0, saturation=0, hue=0)
    size = Preprocess((64, 96), resize=resize, interpolation="bilinear", mean=(0, 0, 0))
    pipeline = BoxPipeline(plain, size)
    for seed in range(12):
        images = drawn_at_random(seed)
        large = Colored([(3 * h, 3 * w) for h, w in images.sizes], [3 * boxes for boxes in images.boxes])
        kept = PixelCache("ram", 1.0).of_boxes(large, size, exact=False)
        assert kept.places.shape.max() <= 1.25 * 96 < max(max(size) for size in large.sizes)
        for i in range(len(images)):
            done = pipeline.read(kept, i, seed)
            assert done.original_size == large.sizes[i]
            assert_shown(large, done, 0.5 if name == "strong" else 0.95)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_row_63_workers_and_the_size_of_the_cache_change_no_sample(kind):
    images = drawn_at_random(3, n=10)
    whole = batches(images, "strong", PixelCache(kind, 1.0))
    assert_same(whole, batches(images, "strong", PixelCache(kind, 1.0, workers=2), workers=2))
    # Room for some of the images only: the others are decoded, and brought to the same size.
    assert_same(whole, batches(images, "strong", PixelCache("ram", 20e-6)))


def test_images_are_kept_with_room_around_what_evaluation_shows_and_never_enlarged():
    for resize, (h, w) in (("letterbox", (40, 48)), ("squash", (40, 60))):
        kept = Prepare(replace(INPUT, resize=resize), exact=False, boxes=True)(np.zeros((100, 120, 3), np.uint8))
        assert kept.shape == (h, w, 3)
    small = np.zeros((30, 40, 3), np.uint8)
    assert Prepare(INPUT, exact=False, boxes=True)(small) is small


def test_an_image_that_cannot_be_decoded_is_told_as_without_the_cache():
    images = drawn_at_random(4, n=8)
    images.broken = (5,)
    loader = eval_loader(BoxReader(images, INPUT), LoaderOptions(batch_size=4, cache=PixelCache("ram", 1.0)))
    assert sum(len(batch.index) for batch in loader) == 7 and [bad.name for bad in loader.bad] == ["colored/5"]


def test_row_18_annotations_that_change_after_the_pixels_were_kept(tmp_path):
    parts = {"train": [Picture(f"{k}.png", (64, 48), [(1, 2, 20, 30, "cat")]) for k in range(3)]}
    coco(tmp_path / "set", parts, ("cat",))
    images = open_data(str(tmp_path / "set"), seed=None, kind="boxes").train
    assert list(eval_loader(BoxReader(images, INPUT), LoaderOptions(batch_size=4, cache=PixelCache("disk", 1.0))))
    images.sizes[1] = (40, 64)
    loader = eval_loader(BoxReader(images, INPUT), LoaderOptions(batch_size=4, cache=PixelCache("disk", 1.0)))
    (batch,) = loader
    assert batch.index.tolist() == [0, 2] and "its annotations say 64x40" in loader.bad[0].reason
