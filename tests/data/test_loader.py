"""Batches: the same with any number of workers (row 63), exact counts with corrupt files (rows 32, 33)."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.data.loading import training
from tests.small_data import AUGMENT
from vit.data import AUGMENTS, LabelReader, LoaderOptions, Mix, Pipeline, eval_loader, open_data, train_loader
from vit.data.load.pixel_cache import PixelCache
from vit.data.sets.imageset import ArraySet
from vit.data.split import with_splits
from vit.errors import UserError
from vit.images.preprocess import Preprocess

SIZE = Preprocess((28, 28), mean=(0.13, 0.13, 0.13), std=(0.31, 0.31, 0.31))


@pytest.fixture(scope="module")
def digits():
    """70 digits, 10 of each of 7 classes, and their answers."""
    return open_data("digits").train.select(np.arange(0, 3500, 50))


@pytest.fixture
def folder(tmp_path, write_images):
    """(a FileSet of 30 images, a function that corrupts some of them)."""
    write_images(tmp_path, {"a": 15, "b": 15}, size=28)

    def corrupt(*names):
        for name in names:
            path = tmp_path / name
            path.write_bytes(path.read_bytes()[:60])

    def reopened():
        return open_data(str(tmp_path), evaluation=True).test

    return reopened, corrupt


def run(images, **options):
    pipeline = Pipeline(AUGMENTS[AUGMENT], SIZE)
    return list(training(images, pipeline, **{"batch_size": 16, "epochs": 2, **options}))


def assert_equal(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(tuple(a), tuple(b), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 4])
def test_row_63_any_number_of_workers_gives_the_same_samples(digits, workers):
    mix = Mix(10, mixup=0.8, cutmix=1.0)
    assert_equal(run(digits, mix=mix), run(digits, mix=mix, workers=workers))


def test_a_batch(digits):
    batches = run(digits)
    assert len(batches) == 8
    batch = batches[0]
    assert batch.images.shape == (16, 3, 28, 28) and batch.images.dtype == torch.float32
    np.testing.assert_array_equal(batch.targets, digits.targets[batch.index])
    # Black paper and white ink, normalized.
    assert float(batch.images.min()) == pytest.approx(-0.13 / 0.31, abs=1e-6)
    assert float(batch.images.max()) == pytest.approx(0.87 / 0.31, abs=1e-6)


@pytest.mark.parametrize("start", [1, 4, 7])
def test_row_38_a_resumed_run_continues_with_the_same_batches(digits, start):
    assert_equal(run(digits, start_step=start), run(digits)[start:])


def test_row_38_mixing_continues_too(digits):
    mix = Mix(10, mixup=0.8)
    assert_equal(run(digits, start_step=5, mix=mix), run(digits, mix=mix)[5:])


def test_row_41_two_ranks_see_what_one_sees(digits):
    whole, ranks = run(digits), [run(digits, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        for rank in range(2):
            torch.testing.assert_close(ranks[rank][step].images, batch.images[rank::2], rtol=0, atol=0)
            assert ranks[rank][step].index.tolist() == batch.index[rank::2].tolist()


def test_epochs_and_seeds_differ(digits):
    batches = run(digits)
    again = run(digits, seed=1)
    assert batches[0].index.tolist() != batches[4].index.tolist()
    assert batches[0].index.tolist() != again[0].index.tolist()

    # The same image is changed in another way in the next epoch.
    def images_of(batch):
        return dict(zip(batch.index.tolist(), batch.images, strict=True))

    first = {k: v for batch in batches[:4] for k, v in images_of(batch).items()}
    second = {k: v for batch in batches[4:] for k, v in images_of(batch).items()}
    common = first.keys() & second.keys()
    assert len(common) > 50
    assert sum(not torch.equal(first[k], second[k]) for k in common) > 0.95 * len(common)


def test_balanced_training_repeats_the_rare_class_in_different_ways():
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    targets = np.array([0] * 39 + [1])
    batches = run(ArraySet(["a", "b"], targets, images, "x"), batch_size=40, epochs=1, balanced=True)
    rare = batches[0].images[batches[0].targets == 1]
    assert 10 <= len(rare) <= 30
    assert len({image.numpy().tobytes() for image in rare}) == len(rare)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once_in_order(digits, workers):
    batches = list(eval_loader(LabelReader(digits, SIZE), LoaderOptions(batch_size=16, workers=workers)))
    index = torch.cat([batch.index for batch in batches])
    assert index.tolist() == list(range(70))
    torch.testing.assert_close(batches[0].images, SIZE.tensor(np.stack([digits.image(i) for i in range(16)])))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_row_52_ranks_of_an_evaluation_share_the_images_without_padding(digits, world):
    seen = [
        batch.index
        for rank in range(world)
        for batch in eval_loader(LabelReader(digits, SIZE), LoaderOptions(batch_size=16, rank=rank, world=world))
    ]
    assert sorted(torch.cat(seen).tolist()) == list(range(70))


@pytest.mark.parametrize("workers", [0, 2])
def test_row_32_a_corrupt_file_in_evaluation_is_counted_and_never_replaced(folder, workers):
    reopened, corrupt = folder
    corrupt("a/3.png", "b/0.png")
    images = reopened()
    loader = eval_loader(LabelReader(images, SIZE), LoaderOptions(batch_size=8, workers=workers))
    for _ in range(2):  # a second pass does not count them twice
        index = torch.cat([batch.index for batch in loader]).tolist()
    bad = {loader.bad[0].name, loader.bad[1].name}
    assert len(index) + len(loader.bad) == len(images) == 30
    assert {os.path.relpath(name, images.root) for name in bad} == {"a/3.png", "b/0.png"}
    assert bad.isdisjoint(images.name(i) for i in index)
    assert "cannot be decoded" in loader.bad[0].reason


def test_row_32_a_batch_of_nothing_but_corrupt_files(folder):
    reopened, corrupt = folder
    corrupt(*(f"a/{i}.png" for i in range(15)))
    images = reopened()
    loader = eval_loader(LabelReader(images, SIZE), LoaderOptions(batch_size=5))
    assert sum(len(batch.index) for batch in loader) == 15
    assert len(loader.bad) == 15


@pytest.mark.parametrize("workers", [0, 2])
def test_row_33_one_corrupt_file_is_left_out_of_training(folder, workers):
    reopened, corrupt = folder
    corrupt("a/3.png")
    images = reopened()
    loader = train_loader(
        LabelReader(images, SIZE, Pipeline(AUGMENTS["none"], SIZE)),
        LoaderOptions(batch_size=10, epochs=2, workers=workers),
    )
    batches = list(loader)
    assert len(batches) == 6 == len(loader)
    assert sum(len(batch.index) for batch in batches) == 58
    assert [os.path.basename(item.name) for item in loader.bad] == ["3.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_row_33_too_many_corrupt_files_stop_the_training(folder, workers):
    reopened, corrupt = folder
    corrupt("a/3.png", "a/4.png")
    loader = train_loader(
        LabelReader(reopened(), SIZE, Pipeline(AUGMENTS["none"], SIZE)),
        LoaderOptions(batch_size=10, epochs=2, workers=workers),
    )
    with pytest.raises(UserError, match=r"2 of 30 training images cannot be decoded, more than 1%.*\d\.png"):
        list(loader)
    assert len(loader.bad) == 2


def test_a_training_batch_is_never_empty(folder):
    reopened, corrupt = folder
    corrupt("a/3.png")
    loader = train_loader(
        LabelReader(reopened(), SIZE, Pipeline(AUGMENTS["none"], SIZE)), LoaderOptions(batch_size=1, epochs=1)
    )
    assert [len(batch.index) for batch in loader] == [1] * 30


def test_row_37_workers_leave_signals_to_the_parent():
    # Ctrl-C goes to the whole process group: the parent, which handles it, still gets all its batches.
    code = (
        "import os, signal, time\n"
        "from vit.data import AUGMENTS, LabelReader, LoaderOptions, Pipeline, open_data, train_loader\n"
        "from vit.images.preprocess import Preprocess\n"
        "if __name__ == '__main__':\n"
        "    seen = []\n"
        "    signal.signal(signal.SIGINT, lambda *_: seen.append('int'))\n"
        "    signal.signal(signal.SIGTERM, lambda *_: seen.append('term'))\n"
        "    p = Preprocess((28, 28))\n"
        "    images = open_data('digits').train\n"
        f"    reader = LabelReader(images, p, Pipeline(AUGMENTS['{AUGMENT}'], p))\n"
        "    loader = train_loader(reader, LoaderOptions(batch_size=50, epochs=1, workers=2))\n"
        "    n = 0\n"
        "    for batch in loader:\n"
        "        n += 1\n"
        "        if n == 5: os.killpg(0, signal.SIGINT)\n"
        "        if n == 6: os.killpg(0, signal.SIGTERM)\n"
        "    print(n, seen)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True)
    assert done.stdout == "70 ['int', 'term']\n", done.stderr
    assert done.returncode == 0


def test_row_50_the_index_of_a_set_is_arrays(folder):
    images = folder[0]()
    assert isinstance(images.targets, np.ndarray)
    assert isinstance(images.names.blob, np.ndarray) and isinstance(images.names.ends, np.ndarray)


def test_multi_label_targets_come_as_floats(digits):
    targets = np.zeros((70, 10), np.float32)
    targets[np.arange(70), digits.targets] = 1
    batches = run(ArraySet(digits.classes, targets, digits.images, "x"))
    assert batches[0].targets.shape == (16, 10) and batches[0].targets.dtype == torch.float32


@pytest.mark.parametrize("augment", ["none", pytest.param("glyph", marks=pytest.mark.albumentations), "light"])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_images_resized_once_are_those_resized_every_time(monkeypatch, augment, resize):
    images = open_data("digits").train.select(np.arange(12))
    preprocess = Preprocess((32, 24), resize=resize, crop=0.875 if resize == "crop" else 1.0)
    pipeline = Pipeline(AUGMENTS[augment], preprocess)

    def batches():
        loader = train_loader(LabelReader(images, preprocess, pipeline, seed=3), LoaderOptions(batch_size=4, epochs=2))
        return [batch.images for batch in loader]

    kept = batches()
    monkeypatch.setattr("vit.data.load.label_reader.LabelReader.keep_resized", lambda self: None)
    for ours, plain in zip(kept, batches(), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("workers", [0, 2])
def test_targets_may_be_numbers(digits, workers):
    """A task of its own needs only an ImageSet whose targets are float32 [n]."""
    numbers = np.linspace(-1, 1, len(digits)).astype(np.float32)
    images = ArraySet((), numbers, digits.images, "x")
    data = with_splits({"all": images}, "x", seed=0, evaluation=False, rule="")
    assert len(data.val) == 14 and data.classes == () and data.train.counts().tolist() == []
    images.relabel(())
    loader = train_loader(
        LabelReader(images, SIZE, Pipeline(AUGMENTS["none"], SIZE), seed=1),
        LoaderOptions(batch_size=16, epochs=2, workers=workers, cache=PixelCache("ram", 1.0)),
    )
    batches = list(loader)
    assert len(batches) == 8
    for batch in batches:
        assert batch.targets.dtype == torch.float32
        np.testing.assert_array_equal(batch.targets, numbers[batch.index])


class Shifted(LabelReader):
    """A target that is made with the image."""

    def sample(self, draw, step):
        return super().sample(draw, step)._replace(target=draw.index + step.number / 100)

    def batch(self, shipped, key, device):
        batch = super().batch(shipped, key, device)
        return batch._replace(targets=torch.tensor(shipped.targets, device=device))


def test_a_third_kind_of_target_needs_only_a_reader(digits):
    reader = Shifted(digits, SIZE, Pipeline(AUGMENTS["none"], SIZE), seed=1)
    options = LoaderOptions(batch_size=16, epochs=2, workers=1)
    whole, rest = train_loader(reader, options), train_loader(reader, options).starting_at(5)
    for first, batches in ((0, whole), (5, rest)):
        for step, batch in enumerate(batches, first):
            torch.testing.assert_close(batch.targets, batch.index + step / 100)
        assert step == 7
