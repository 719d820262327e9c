"""Boxes go where their pixels go."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vit.data.augment.boxes import BOX_AUGMENTS, BoxAugment, BoxPipeline, named_box_augment, placed
from vit.data.load.box_reader import BoxReader
from vit.data.load.loader import LoaderOptions, eval_loader, train_loader
from vit.data.open import open_data
from vit.data.sets.boxset import Annotation
from vit.data.sets.imageset import ImageSet
from vit.errors import UserError
from vit.images.preprocess import Preprocess

RED = np.array([255, 0, 0])


def picture(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Black with a red box."""
    image = np.zeros((height, width, 3), np.uint8)
    x, y, right, bottom = box
    image[y:bottom, x:right] = RED
    return image


def red_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """The box around all pixels that are more red than black."""
    red = image[:, :, 0].astype(int) - image[:, :, 1] > 127
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@given(
    height=st.integers(30, 90),
    width=st.integers(30, 90),
    seed=st.integers(0, 10**6),
    name=st.sampled_from(["geometry", "jitter"]),
    resize=st.sampled_from(["squash", "letterbox"]),
)
@settings(max_examples=60, deadline=None)
def test_boxes_follow_the_pixels(height: int, width: int, seed: int, name: str, resize: str):
    rng = np.random.default_rng(seed)
    x, y = int(rng.integers(0, width - 12)), int(rng.integers(0, height - 12))
    box = (x, y, int(rng.integers(x + 10, width)), int(rng.integers(y + 10, height)))
    augment = BoxAugment(flip=0.5, jitter=(0.5, 2.0) if name == "jitter" else None)
    preprocess = Preprocess((96, 64), resize=resize, interpolation="bilinear", mean=(0, 0, 0))
    done = BoxPipeline(augment, preprocess)(picture(height, width, box), np.array([box], np.float32), seed)
    assert done.pixels.shape == (96, 64, 3)
    if len(done.rows):
        assert np.abs(done.boxes[0] - red_box(done.pixels)).max() <= 1.5


def test_large_scale_jitter_zooms_both_ways_and_drops_what_is_gone():
    preprocess = Preprocess((64, 64), resize="letterbox", mean=(0, 0, 0))
    pipeline = BoxPipeline(BOX_AUGMENTS["lsj"], preprocess)
    image, boxes = picture(64, 64, (4, 4, 16, 16)), np.array([[4, 4, 16, 16]], np.float32)
    results = [pipeline(image, boxes, seed) for seed in range(60)]
    sides = [float(r.boxes[0, 2] - r.boxes[0, 0]) for r in results if len(r.rows)]
    assert min(sides) < 6 and max(sides) > 16
    assert any(len(r.rows) == 0 for r in results)
    for r in results:
        assert r.boxes.min(initial=0) >= 0 and r.boxes.max(initial=0) <= 64


def test_same_seed_same_result_after_any_other_call():
    pipeline = BoxPipeline(BOX_AUGMENTS["lsj"], Preprocess((64, 64), resize="letterbox"))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    boxes = np.array([[5, 5, 30, 30], [40, 10, 60, 45]], np.float32)
    first = pipeline(image, boxes, 2**64 - 5)
    pipeline(image, boxes, 6)
    again = pipeline(image, boxes, 2**64 - 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_rows_say_which_boxes_are_left():
    preprocess = Preprocess((32, 32), resize="squash")
    boxes = np.array([[0, 0, 8, 8], [4, 4, 4, 9], [16, 16, 32, 32]], np.float32)  # the second is a line
    done = BoxPipeline(named_box_augment("none"), preprocess)(np.zeros((32, 32, 3), np.uint8), boxes, 0)
    assert done.rows.tolist() == [0, 2]
    assert done.boxes.tolist() == boxes[[0, 2]].tolist()


def test_no_boxes():
    done = BoxPipeline(BOX_AUGMENTS["lsj"], Preprocess((32, 32), resize="letterbox"))(
        np.zeros((40, 20, 3), np.uint8), np.empty((0, 4), np.float32), 3
    )
    assert done.boxes.shape == (0, 4) and done.rows.shape == (0,)


def test_placed_is_where_letterbox_puts_pixels():
    preprocess = Preprocess((64, 96), resize="letterbox", mean=(0, 0, 0))
    box = (10, 20, 40, 70)
    pixels = preprocess.pixels(picture(90, 50, box))
    there = placed(np.array([box], np.float32), preprocess, (90, 50))[0]
    assert np.abs(there - red_box(pixels)).max() <= 1
    with pytest.raises(UserError, match="need the whole image"):
        placed(np.array([box], np.float32), Preprocess((64, 64), resize="crop"), (90, 50))


def test_misspelt_augmentation():
    with pytest.raises(UserError, match='Did you mean "light"'):
        named_box_augment("ligth")


class Set(ImageSet):
    """Red boxes; image 2 cannot be read, image 3 has no box."""

    def __init__(self, n: int = 6) -> None:
        super().__init__(["a", "b"], np.array([1, 1, 1, 0, 1, 1][:n], np.int64))

    def name(self, i: int) -> str:
        return f"red/{i}"

    def image_id(self, i: int) -> int:
        return 100 + i

    def read(self, i: int) -> np.ndarray:
        if i == 2:
            raise UserError("red/2: cannot be decoded")
        return picture(40 + i, 60, (10, 5 + i, 30, 25))

    def annotation(self, i: int) -> Annotation:
        n = int(self.targets[i])
        boxes = np.array([[10, 5 + i, 30, 25]] * n, np.float32).reshape(-1, 4)
        return Annotation(boxes, np.array([i % 2] * n, np.int64), np.zeros(n, bool), np.full(n, 9.0, np.float32))

    def select(self, indices: np.ndarray) -> "Set":
        raise NotImplementedError


def test_evaluation_batches():
    preprocess = Preprocess((32, 48), resize="letterbox")
    loader = eval_loader(BoxReader(Set(), preprocess), LoaderOptions(batch_size=4))
    batches = list(loader)
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 3], [4, 5]]
    assert [bad.name for bad in loader.bad] == ["red/2"]  # row 32: left out, never replaced
    target = batches[0].targets[1]
    assert batches[0].images.shape == (3, 3, 32, 48)
    assert target["image_id"] == 101 and target["original_size"] == (41, 60)
    assert target["original_boxes"].tolist() == [[10, 6, 30, 25]] and target["area"].tolist() == [9.0]
    scale_x, scale_y, left, top = target["placement"]
    center, size = (target["boxes"][0, part] * torch.tensor([48, 32]) for part in (slice(2), slice(2, 4)))
    corner = (center - size / 2 - torch.tensor([left, top])) / torch.tensor([scale_x, scale_y])
    assert torch.allclose(corner, torch.tensor([10.0, 6.0]), atol=1e-4)
    assert batches[0].targets[2]["boxes"].shape == (0, 4)  # row 17: a valid negative


def test_training_batches_are_the_same_with_workers():
    preprocess = Preprocess((32, 32), resize="letterbox")
    data = open_data("scenes", kind="boxes").train.select(np.arange(12))
    runs = []
    for workers in (0, 2):
        loader = train_loader(
            BoxReader(data, preprocess, BoxPipeline(BOX_AUGMENTS["lsj"], preprocess), seed=3),
            LoaderOptions(batch_size=4, epochs=2, workers=workers),
        )
        assert len(loader) == 6
        runs.append(list(loader))
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.index, b.index)
        assert all(torch.equal(s["boxes"], t["boxes"]) for s, t in zip(a.targets, b.targets, strict=True))


def test_a_resumed_run_sees_what_it_would_have_seen():
    preprocess = Preprocess((32, 32), resize="letterbox")
    data = open_data("scenes", kind="boxes").train.select(np.arange(8))
    pipeline = BoxPipeline(BOX_AUGMENTS["lsj"], preprocess)
    whole = list(train_loader(BoxReader(data, preprocess, pipeline), LoaderOptions(batch_size=4, epochs=3)))
    rest = list(
        train_loader(BoxReader(data, preprocess, pipeline), LoaderOptions(batch_size=4, epochs=3, start_step=3))
    )
    assert len(rest) == 3
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[3:], rest, strict=True))


def test_a_preprocessing_that_loses_parts_is_refused_at_once():
    preprocess = Preprocess((32, 32), resize="crop")
    with pytest.raises(UserError, match="Boxes need the whole image"):
        eval_loader(BoxReader(Set(), preprocess), LoaderOptions(batch_size=2))
    with pytest.raises(UserError, match="Boxes need the whole image"):
        train_loader(
            BoxReader(Set(), preprocess, BoxPipeline(BoxAugment(), preprocess)), LoaderOptions(batch_size=2, epochs=1)
        )


def test_too_many_unreadable_images_stop_the_training():
    class Broken(Set):
        def read(self, i: int) -> np.ndarray:
            if i in (1, 2):
                raise UserError(f"red/{i}: cannot be decoded")
            return super().read(i)

    preprocess = Preprocess((32, 32), resize="letterbox")
    loader = train_loader(
        BoxReader(Broken(), preprocess, BoxPipeline(BoxAugment(), preprocess)), LoaderOptions(batch_size=2, epochs=3)
    )
    with pytest.raises(UserError, match=r"2 of 6 training images cannot be used.*red/"):
        list(loader)


def test_a_batch_of_unreadable_images_takes_the_next():
    preprocess = Preprocess((32, 32), resize="letterbox")
    loader = train_loader(
        BoxReader(Set(), preprocess, BoxPipeline(BoxAugment(), preprocess)), LoaderOptions(batch_size=1, epochs=1)
    )
    batches = list(loader)
    assert len(batches) == 6 and sorted(int(b.index) for b in batches) == [0, 1, 3, 3, 4, 5]
