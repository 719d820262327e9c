import numpy as np
import pytest

from vit.data import survey
from vit.data.bundled.scenes import COUNTS, COVERED, LARGEST, MOST, SIDE, Scenes, _covered, load_scenes
from vit.data.open import open_data, reopen
from vit.errors import UserError


def test_a_scene_is_a_function_of_its_number():
    first, again = Scenes("train", np.arange(10)), Scenes("train", np.array([7]))
    assert np.array_equal(first.image(7), again.image(0))
    assert np.array_equal(first.annotation(7).boxes, again.annotation(0).boxes)
    assert not np.array_equal(first.image(7), first.image(8))
    assert not np.array_equal(first.image(7), Scenes("test", np.arange(10)).image(7))


def test_what_is_promised():
    scenes = Scenes("val", np.arange(200))
    counts, sides, labels, hidden = [], [], [], []
    for i in range(200):
        boxes, label, crowd, area = scenes.annotation(i)
        assert boxes.dtype == np.float32 and label.dtype == np.int64 and not crowd.any()
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= SIDE).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert np.allclose(area, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        counts.append(len(label))
        sides += (boxes[:, 2:] - boxes[:, :2]).max(axis=1).tolist()
        labels += label.tolist()
        placed = [tuple(box) for box in boxes.tolist()]
        hidden += [sum(_covered(old, new) for new in placed[k + 1 :]) for k, old in enumerate(placed)]
    assert max(hidden) <= COVERED and np.mean(np.array(hidden) > 0.1) > 0.1
    assert min(counts) == 0 and max(counts) <= MOST and 2.5 < np.mean(counts) < 4
    assert 14 <= min(sides) < 18 and 50 < max(sides) <= LARGEST
    assert set(labels) == set(range(10))


def test_digits_show_on_their_background():
    scenes = Scenes("train", np.arange(60))
    contrast = []
    for i in range(60):
        image, (boxes, *_) = scenes.image(i).astype(float), scenes.annotation(i)
        assert image.shape == (SIDE, SIDE, 3)
        for x, y, right, bottom in boxes.astype(int).tolist():
            contrast.append(image[y:bottom, x:right].std())
    assert np.median(contrast) > 35


def test_no_test_digit_was_trained_on():
    """Each split's digits are its own rows of the stored data."""
    sets = load_scenes()
    assert {name: len(images) for name, images in sets.items()} == COUNTS
    glyphs = {name: {glyph.tobytes() for glyph in images._glyphs} for name, images in sets.items()}
    assert not glyphs["train"] & glyphs["test"] and not glyphs["train"] & glyphs["val"]


def test_as_a_data_set():
    data = open_data("scenes", kind="boxes")
    assert data.classes == tuple("0123456789") and data.category_ids == tuple(range(10))
    assert reopen(data.record, kind="boxes").record == data.record
    looked = survey(data.val, sample=8)
    assert looked.size == (SIDE, SIDE) and not looked.gray
    assert data.train.counts().min() > 100
    data.test.relabel([*"9876543210"])
    assert (data.test.annotation(1).labels == 9 - open_data("scenes", kind="boxes").test.annotation(1).labels).all()
    with pytest.raises(UserError, match="no class"):
        data.val.relabel(["0"])
