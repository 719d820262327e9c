"""The detection set of real pictures: what its boxes hold, and that nothing that is tested was trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vit.data.open import open_data

pytest.importorskip("skimage")

from benchmarks.photo_set import CLASSES, PARTS, TILE, VISIBLE, Picture, drawn, tiles, write_photo_set
from benchmarks.photo_set import pictures as make_pictures

SCALES = {"coin": 1.0, "brick": 1.0, "galaxy": 1.5}

# scikit-image 0.26 with NumPy 2.5.
pytestmark = pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")


@pytest.fixture(scope="module")
def pictures() -> dict[str, Picture]:
    return make_pictures()


@pytest.fixture(scope="module")
def written(
    pictures: dict[str, Picture], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, int]]]:
    folder = tmp_path_factory.mktemp("photographs") / "set"
    return folder, write_photo_set(folder, pictures)


def test_there_are_24_round_coins_in_four_rows_of_six(pictures: dict[str, Picture]):
    regions = pictures["coin"].regions
    places = ndimage.find_objects(regions)
    assert len(places) == 24 and not pictures["coin"].crowd.any()
    height, width = np.array([[s.stop - s.start for s in place] for place in places]).T
    filled = np.bincount(regions.ravel())[1:] / (height * width)
    assert (np.abs(np.log(height / width)) < np.log(1.25)).all()
    assert (np.abs(filled - np.pi / 4) < 0.08).all()  # a disk in its box
    rows = np.array([place[0].start + place[0].stop for place in places]) // (2 * regions.shape[0] / 4)
    assert np.bincount(rows.astype(int)).tolist() == [6, 6, 6, 6]


def test_bricks_are_dark_and_parted_by_mortar(pictures: dict[str, Picture]):
    picture = pictures["brick"]
    gray, inside = picture.pixels[:, :, 0].astype(float), picture.regions > 0
    assert 80 <= picture.regions.max() <= 100 and 0.7 < inside.mean() < 0.9
    assert gray[inside].mean() + 30 < gray[~inside].mean()
    # Two bricks as one would be filled with mortar or would be far larger than any.
    sizes = np.bincount(picture.regions.ravel())[1:]
    assert sizes.max() < 2 * np.percentile(sizes, 80)


def test_galaxies_are_lights_and_the_two_stars_are_none(pictures: dict[str, Picture]):
    picture = pictures["galaxy"]
    light = picture.pixels.max(-1)
    peaks = ndimage.maximum(light, picture.regions, np.arange(1, picture.regions.max() + 1))
    assert (peaks > 80).all() and (picture.regions > 0).mean() < 0.1
    assert 100 < (~picture.crowd).sum() < 200
    brightest = picture.regions[577, 753]
    assert brightest and picture.crowd[brightest - 1]


@pytest.mark.parametrize("name", CLASSES)
def test_tiles_show_their_part_of_the_picture(name: str, pictures: dict[str, Picture]):
    picture = pictures[name]
    covered: dict[str, set[int]] = {}
    for split, part in PARTS.items():
        for (x, _), pixels, objects in tiles(picture, part):
            height, width = pixels.shape[:2]
            assert height == TILE and width <= TILE
            covered.setdefault(split, set()).update(range(x, x + width))
            low, high = objects.boxes[:, :2], objects.boxes[:, 2:]
            assert (low >= 0).all() and (high <= [width, height]).all() and (high > low).all()
    splits = list(covered.values())
    assert all(a.isdisjoint(b) for i, a in enumerate(splits) for b in splits[i + 1 :])
    # But for a rest too narrow for a tile, everything is seen.
    assert sum(map(len, splits)) > 0.9 * picture.pixels.shape[1] * picture.scale


def test_what_is_hardly_seen_in_a_tile_is_a_crowd(pictures: dict[str, Picture]):
    """A coin that the tile's border cuts is one to find as long as enough of it is there; its box ends at the
    border."""
    picture = pictures["coin"]
    places, whole = ndimage.find_objects(picture.regions), np.bincount(picture.regions.ravel())
    seen = hidden = 0
    for (x, y), pixels, objects in tiles(picture, PARTS["train"]):
        part = picture.regions[y : y + pixels.shape[0], x : x + pixels.shape[1]]
        for number, (box, crowd) in zip(np.unique(part[part > 0]), zip(*objects, strict=True), strict=True):
            share = (part == number).sum() / whole[number]
            assert crowd == (share < VISIBLE)
            seen, hidden = seen + (not crowd), hidden + crowd
            if share == 1:
                rows, columns = places[number - 1]
                assert box.tolist() == [columns.start - x, rows.start - y, columns.stop - x, rows.stop - y]
    assert seen > 50 and hidden > 10


def test_the_set_is_read_without_a_warning(written: tuple[Path, dict[str, dict[str, int]]]):
    folder, counts = written
    data = open_data(str(folder), kind="boxes")
    assert data.classes == CLASSES and not any(note.startswith("Warning") for note in data.notes)
    for split, images in data.splits().items():
        wanted = counts["valid" if split == "val" else split]
        assert len(images) == wanted["tiles"]
        found = np.zeros(3, int)
        for i in range(len(images)):
            truth = images.annotation(i)
            found += np.bincount(truth.labels[~truth.crowd], minlength=3)
        assert dict(zip(CLASSES, found.tolist(), strict=True)) == {name: wanted[name] for name in CLASSES}
        assert (found > 10).all()


def test_a_tile_is_cut_where_its_name_says(
    written: tuple[Path, dict[str, dict[str, int]]], pictures: dict[str, Picture]
):
    folder, _ = written
    for entry in json.loads((folder / "test" / "_annotations.coco.json").read_text())["images"][::9]:
        name, x, y = entry["file_name"].removesuffix(".png").split()
        with Image.open(folder / "test" / entry["file_name"]) as image:
            tile = np.asarray(image).astype(float)
        scale, pixels = SCALES[name], pictures[name].pixels
        center = tile[TILE // 2 - 8 : TILE // 2 + 8, tile.shape[1] // 2 - 8 : tile.shape[1] // 2 + 8].mean()
        at_x, at_y = (int(x) + tile.shape[1] / 2) / scale, (int(y) + TILE / 2) / scale
        reach = 8 / scale
        there = pixels[round(at_y - reach) : round(at_y + reach), round(at_x - reach) : round(at_x + reach)].mean()
        assert abs(center - there) < 12


def test_a_drawing_shows_every_box(pictures: dict[str, Picture]):
    picture = pictures["coin"]
    painted = drawn(picture).astype(int)
    plain = np.asarray(Image.fromarray(picture.pixels).resize((768, 606), Image.Resampling.BICUBIC)).astype(int)
    changed = np.abs(painted - plain).sum(-1) > 60
    for rows, columns in ndimage.find_objects(picture.regions):
        assert changed[(rows.start + rows.stop) :, 2 * columns.start : 2 * columns.start + 3].any()
        assert changed[2 * rows.start : 2 * rows.start + 3, columns.start + columns.stop].any()
