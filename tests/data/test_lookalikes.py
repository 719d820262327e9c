"""Copies in another size or compression look alike, other images do not; names that are nearly equal."""

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from vit.data.bundled.scenes import load_scenes
from vit.data.check.lookalikes import Look, alike, look_of
from vit.data.check.quick import near_names


def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Blotches of several scales, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n * 3, n * 4, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        )
        for n in (2, 5, 20)
    ]
    return Image.fromarray(np.average(layers, axis=0, weights=[3, 2, 1]).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


COPIES = {
    "smaller": lambda image: image.resize((160, 120)),
    "larger": lambda image: image.resize((500, 375)),
    "compressed": lambda image: jpeg(image, 40),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.06),
    "a video's next frame": lambda image: image.crop((2, 1, 320, 240)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found(name: str):
    images = [photo(seed) for seed in range(12)]
    looks = [look_of(np.asarray(image)) for image in (*images, *map(COPIES[name], images))]
    assert all(looks)
    pairs = {tuple(pair) for pair in alike([look for look in looks if look]).tolist()}
    assert pairs <= {(k, 12 + k) for k in range(12)}, "nothing else looks alike"
    assert len(pairs) >= 11


def test_other_images_are_not():
    scenes = load_scenes()["train"]
    looks = [look for i in range(150) if (look := look_of(scenes.image(i))) is not None]
    looks += [look for seed in range(150) if (look := look_of(np.asarray(photo(seed, (96, 64))))) is not None]
    assert len(looks) > 250 and len(alike(looks)) == 0


def test_what_is_flat_or_small_has_no_look():
    assert look_of(np.full((100, 100, 3), 7, np.uint8)) is None
    assert look_of(np.asarray(photo(1, (40, 20)))) is None
    assert len(alike([])) == 0


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=40), st.lists(st.integers(0, 63), max_size=3))
@settings(max_examples=60, deadline=None)
def test_hashes_that_differ_in_three_bits_are_always_candidates(words: list[int], flips: list[int]):
    """Of four quarters one is then equal (pigeonhole). Equal copies stand for images that show the same."""
    changed = words[0]
    for bit in flips:
        changed ^= 1 << bit
    thumb = np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes()
    looks = [Look(word.to_bytes(8, "big"), thumb) for word in (*words[:12], changed)]
    pairs = {tuple(pair) for pair in alike(looks).tolist()}
    assert any(len(looks) - 1 in pair for pair in pairs)
    assert all(a < b for a, b in pairs)


@pytest.mark.parametrize(
    ("one", "two"),
    [("dog", "Dog"), ("red fox", "red_fox"), ("cat", "cats"), ("box", "boxes"), ("horse", "hrose"), ("tiger", "tigger"),
     ("zebra", "zebar"), ("umbrella", "umbrela"), ("kitchen knife", "kitchen-knife")],
)  # fmt: skip
def test_names_that_are_nearly_equal(one: str, two: str):
    assert near_names(["sun", one, "moon", two]) == [(1, 3)]


@pytest.mark.parametrize(
    ("one", "two"),
    [("cat", "car"), ("class1", "class2"), ("type 10", "type 11"), ("cow", "cup"), ("bear", "pear"), ("x", "")],
)
def test_names_that_are_others(one: str, two: str):
    assert near_names([one, two]) == []


def test_all_pairs_of_many_names():
    names = [f"{kind} {k}" for kind in ("oak", "elm") for k in range(300)]
    assert near_names(names) == []
    assert all(near_names([a, b]) == [] for a, b in pairwise(names[:50]))
