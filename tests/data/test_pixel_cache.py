"""--cache: the pixels are those without it where the augmentation allows, and near them elsewhere; bounded; shared."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.loading import training
from vit.data import AUGMENTS, Augment, LabelReader, LoaderOptions, Pipeline, eval_loader, open_data
from vit.data.load.pixel_cache import PixelCache, Prepare
from vit.data.load.pixel_file import SUFFIX, PixelFolder
from vit.errors import UserError
from vit.images.preprocess import Preprocess

SIZE = Preprocess((32, 24), crop=0.875)
PHOTOS = 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


@pytest.fixture
def folder(tmp_path):
    """Photographs of several sizes, larger and smaller than the input: smooth, as photographs are."""
    rng = np.random.default_rng(0)
    for i in range(PHOTOS):
        h, w = [(90, 120), (200, 60), (20, 30), (45, 45)][i % 4]
        low = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        low.resize((w, h), Image.Resampling.BICUBIC).save(path)
    return tmp_path / "photos"


@pytest.fixture
def images(folder):
    images = open_data(str(folder), evaluation=True).test
    images.cache = lambda limit=0: False  # so few are kept in memory anyway
    return images


def batches(images, augment, cache=None, **options):
    pipeline = Pipeline(augment, SIZE)
    options = {"batch_size": 4, "epochs": 2, "seed": 3, **options}
    return [tuple(batch) for batch in training(images, pipeline, cache=cache, **options)]


def equal(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("resize", ["crop", "squash", "letterbox"])
def test_evaluation_is_the_same_to_the_last_bit(images, kind, workers, resize):
    size = Preprocess((32, 24), resize=resize, crop=0.875)
    plain = [tuple(batch) for batch in eval_loader(LabelReader(images, size), LoaderOptions(batch_size=5))]
    kept = PixelCache(kind, 1.0, workers=workers)
    for _ in range(2):
        equal(
            plain,
            [
                tuple(b)
                for b in eval_loader(
                    LabelReader(images, size), LoaderOptions(batch_size=5, workers=workers, cache=kept)
                )
            ],
        )


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize(
    "augment",
    [
        AUGMENTS["none"],
        pytest.param(AUGMENTS["glyph"], marks=pytest.mark.albumentations),
        Augment(flip=0.5, brightness=0.3),
    ],
)
def test_training_without_a_random_crop_is_the_same_to_the_last_bit(images, kind, augment):
    equal(batches(images, augment), batches(images, augment, PixelCache(kind, 1.0)))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_random_crop_sees_nearly_the_same_pixels(images, kind):
    """The same crop of the same part: the image has been scaled once more, and never up."""
    augment = Augment(crop=(0.5, 1.0), flip=0.5)
    plain, kept = batches(images, augment), batches(images, augment, PixelCache(kind, 1.0))
    for (a, labels, index), (b, again, also) in zip(plain, kept, strict=True):
        assert index.tolist() == also.tolist() and labels.tolist() == again.tolist()
        # Normalised: one level of gray is .02
        assert (a - b).abs().mean() < 0.06
    equal(kept, batches(images, augment, PixelCache("disk" if kind == "ram" else "ram", 1.0)))


def test_what_is_kept_for_a_random_crop_just_covers_the_input_with_room():
    prepare = Prepare(Preprocess((32, 24)), exact=False)
    for h, w in ((90, 120), (200, 60), (1000, 50)):
        kept = prepare(np.zeros((h, w, 3), np.uint8)).shape
        assert kept[0] >= 40 and kept[1] >= 30 and (kept[0] == 40 or kept[1] == 30)
        assert abs(kept[0] / kept[1] / (h / w) - 1) < 0.05
    small = np.random.default_rng(0).integers(0, 256, (39, 200, 3), dtype=np.uint8)
    assert prepare(small) is small  # never enlarged


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_row_63_workers_and_the_size_of_the_cache_change_no_sample(images, kind):
    augment = Augment(crop=(0.3, 1.0))
    whole = batches(images, augment, PixelCache(kind, 1.0))
    equal(whole, batches(images, augment, PixelCache(kind, 1.0, workers=2), workers=2))
    # Room for some of the images only: the others are decoded, and brought to the same size.
    equal(whole, batches(images, augment, PixelCache("ram", 15e-6)))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_it_is_bounded_and_says_what_found_room(images, kind, cache):
    lines = []
    kept, _, _ = PixelCache(kind, 15e-6, log=lines.append).of(images, SIZE, None)
    one = 32 * 24 * 3
    assert kept.pixels.bytes == 15_000 // one * one
    assert (kept.places.start >= 0).sum() == 15_000 // one == 6
    (line,) = lines
    assert line.startswith("Cache: 6 images as the model takes them in ") and line.endswith(
        "0.00 GB, 50% of all: the rest is decoded in every epoch (--cache-gb)."
    )
    if kind == "disk":
        assert sum(file.stat().st_size for file in cache.iterdir()) < 15_000 + 2_000


def test_the_limit_of_memory_is_for_train_and_val_together(images):
    kept = PixelCache("ram", 40e-6)
    one = 32 * 24 * 3
    first, _, _ = kept.of(images, SIZE, None)
    second, _, _ = kept.of(images.select(np.arange(PHOTOS)[::-1]), SIZE, None)
    assert first.pixels.bytes == 12 * one and second.pixels.bytes <= 40_000 - 12 * one < 6 * one


def reads(images, monkeypatch):
    """The indices that are decoded from now on."""
    seen = []
    read = type(images).read
    monkeypatch.setattr(type(images), "read", lambda self, i: (seen.append(i), read(self, i))[1])
    return seen


def test_nothing_is_decoded_twice(images, monkeypatch):
    seen = reads(images, monkeypatch)
    kept = PixelCache("ram", 1.0)
    batches(images, AUGMENTS["light"], kept, epochs=3)
    assert sorted(seen) == list(range(PHOTOS))


def test_the_next_run_finds_the_file(images, folder, monkeypatch, cache):
    first = batches(images, AUGMENTS["none"], PixelCache("disk", 1.0))
    assert len(list(cache.iterdir())) == 1
    seen = reads(images, monkeypatch)
    equal(first, batches(images, AUGMENTS["none"], PixelCache("disk", 1.0)))
    assert seen == []
    # Another size or another way to resize is another file; so is data that have changed.
    list(
        eval_loader(
            LabelReader(images, Preprocess((32, 32))), LoaderOptions(batch_size=4, cache=PixelCache("disk", 1.0))
        )
    )
    assert len(seen) == PHOTOS and len(list(cache.iterdir())) == 2
    os.utime(folder / "a" / "0.png", ns=(1, 1))
    seen.clear()
    equal(first, batches(images, AUGMENTS["none"], PixelCache("disk", 1.0)))
    assert len(seen) == PHOTOS and len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"x", "cut", "places"])
def test_a_damaged_file_is_made_anew(images, damage, cache):
    first = batches(images, AUGMENTS["none"], PixelCache("disk", 1.0))
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if damage == "cut":
        damage = content[: len(content) // 2]
    elif damage == "places":
        damage = content[:-600] + bytes(584) + content[-16:]
    file.write_bytes(damage)
    equal(first, batches(images, AUGMENTS["none"], PixelCache("disk", 1.0)))
    assert file.read_bytes() == content


def test_a_file_that_had_less_room_is_made_anew_where_there_is_more(images, cache):
    PixelCache("disk", 15e-6).of(images, SIZE, None)
    kept, _, _ = PixelCache("disk", 1.0).of(images, SIZE, None)
    assert kept.places.complete and (kept.places.start >= 0).all()


def test_the_oldest_files_make_room(images, cache):
    one = 32 * 24 * 3 * PHOTOS + 2_000
    for k, side in enumerate((32, 40)):
        PixelCache("disk", 1.0).of(images, Preprocess((side, 24)), None)
        for file in cache.glob(f"*{SUFFIX}"):
            os.utime(file, (k, k)) if file.stat().st_mtime > 100 else None
    oldest = min(cache.iterdir(), key=lambda file: file.stat().st_mtime)
    PixelCache("disk", 2.6 * one / 1e9).of(images, Preprocess((24, 24)), None)
    assert not oldest.exists()
    assert sum(file.stat().st_size for file in cache.iterdir()) <= 2.6 * one


def test_a_run_that_stops_leaves_no_file(images, cache, monkeypatch):
    def stop(self, i):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(images), "read", stop)
    with pytest.raises(KeyboardInterrupt):
        PixelCache("disk", 1.0).of(images, SIZE, None)
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_told(images, cache, monkeypatch):
    def full(self, places):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vit.data.load.pixel_file._Writer.finish", full)
    with pytest.raises(UserError, match=r"there is no space left\. Free some, or try --cache ram"):
        PixelCache("disk", 1.0).of(images, SIZE, None)
    assert list(cache.iterdir()) == []


def test_a_disk_with_little_space_gets_less(cache, monkeypatch):
    cache.mkdir(parents=True)

    class Usage:
        free = 1000

    monkeypatch.setattr("vit.data.load.pixel_file.shutil.disk_usage", lambda path: Usage)
    assert PixelFolder(10**9).room() == 950


def test_row_32_images_that_cannot_be_decoded_are_reported_as_without_the_cache(images, folder):
    content = (folder / "a" / "4.png").read_bytes()
    (folder / "a" / "4.png").write_bytes(content[:60])
    loader = eval_loader(LabelReader(images, SIZE), LoaderOptions(batch_size=4, cache=PixelCache("ram", 1.0)))
    index = torch.cat([batch.index for batch in loader]).tolist()
    assert len(index) == PHOTOS - 1
    (bad,) = loader.bad
    assert bad.name == str(folder / "a" / "4.png") and "cannot be decoded" in bad.reason


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_what_is_sent_to_a_worker_holds_no_copy_of_a_file(images, kind):
    del images.cache
    kept, _, _ = PixelCache(kind, 1.0).of(images, SIZE, None)
    kept.image(0)
    if kind == "disk":
        assert len(pickle.dumps(kept)) < 5_000
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(kept)).image(3), kept.image(3))
    with pytest.raises(ValueError, match="read-only"):
        kept.image(0)[:] = 0
    np.testing.assert_array_equal(kept.select(np.array([7, 2])).image(0), kept.image(7))
