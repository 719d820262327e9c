"""Boxes are painted where they are, in colors that differ, and names never leave the picture."""

import numpy as np
import pytest

from vit.images.draw import CROWDED, Mark, color_of, draw_boxes

RED = (255, 0, 0)
GRAY = np.full((600, 800, 3), 128, np.uint8)


def changed(picture: np.ndarray) -> np.ndarray:
    return (picture != 128).any(axis=2)


def test_a_box_lies_where_it_is():
    picture = draw_boxes(GRAY, [Mark((100, 200, 300, 400), "", RED)])
    assert picture.shape == GRAY.shape and (GRAY == 128).all()  # the image itself is left as it was
    rows, columns = np.nonzero((picture == RED).all(axis=2))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (100, 200, 299, 399)
    assert not changed(picture)[210:390, 110:290].any()


def test_a_small_image_is_enlarged_with_its_boxes():
    picture = draw_boxes(np.full((60, 80, 3), 128, np.uint8), [Mark((10, 20, 30, 40), "", RED)])
    assert picture.shape == (360, 480, 3)
    rows, columns = np.nonzero((picture == RED).all(axis=2))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (60, 120, 179, 239)


@pytest.mark.parametrize("box", [(0, 0, 799, 599), (0, 0, 5, 5), (795, 595, 800, 600), (300, 0, 310, 600)])
def test_a_name_stays_in_the_picture_and_beside_the_box(box: tuple[float, ...]):
    named, plain = (draw_boxes(GRAY, [Mark(box, text, RED)]) for text in ("a name 0.50", ""))
    rows, columns = np.nonzero((named != plain).any(axis=2))
    assert len(rows) > 500
    width, height = columns.max() - columns.min(), rows.max() - rows.min()
    assert 50 < width < 200 and 8 < height < 30  # the whole name, not the part that a border left


def test_names_do_not_cover_each_other():
    marks = [Mark((100, 200, 300, 400), "first 0.90", RED), Mark((100, 200, 300, 400), "second 0.80", (0, 0, 255))]
    picture = draw_boxes(GRAY, marks)
    for color in ((255, 0, 0), (0, 0, 255)):
        assert (picture == color).all(axis=2).sum() > 500
    # Of very many in one place only those are named that find room.
    many = [Mark((100, 200, 300, 400), f"name {i}", color_of(i)) for i in range(CROWDED + 1)]
    shown = [(draw_boxes(GRAY, many) == mark.color).all(axis=2).sum() > 100 for mark in many]
    assert 3 <= sum(shown) <= 8 and shown[0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (2, 3)])
def test_images_of_any_shape(shape: tuple[int, int]):
    marks = [Mark((0, 0, shape[1], shape[0]), "name", RED), Mark((0, 0, shape[1], shape[0]), "name", RED, dashed=True)]
    picture = draw_boxes(np.zeros((*shape, 3), np.uint8), marks)
    assert max(picture.shape) >= 480 and picture.dtype == np.uint8


def test_a_thousand_classes_have_colors():
    colors = [color_of(k) for k in range(1000)]
    assert len(set(colors[:200])) == 200
    assert all(0 <= channel <= 255 for color in colors for channel in color)
    assert len(set(colors)) > 300
