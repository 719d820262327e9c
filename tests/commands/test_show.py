"""`vitral data show`: what is drawn is what train.py would feed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit.commands import train
from vit.commands.data import show
from vit.data import open_data, survey
from vit.errors import UserError
from vit.tasks.classification.feed import label

ROOT = Path(__file__).parents[2]


class Stop(Exception):
    pass


@pytest.fixture
def first_batch(monkeypatch, tmp_path):
    """first_batch(arguments): what train.py is about to feed to the model."""

    def fed(arguments: list[str]):
        def fit(parts, *args, **options):
            raise Stop(next(iter(parts.batches)))

        monkeypatch.setattr("vit.training.run.fit", fit)
        with pytest.raises(Stop) as stopped:
            train.main([*arguments, "--out", str(tmp_path / "run"), "--device", "cpu"])
        return stopped.value.args[0]

    return fed


def test_the_pictures_are_the_first_training_batch(photos, first_batch):
    options = ["--augment", "deit3", "--seed", "3", "--image-size", "32"]
    batch = first_batch(["folder", "--data", str(photos), *options])
    recipe = train.parse(["folder", "--data", str(photos), *options])
    settled, seen = show.training_images(recipe, epoch=1)
    found = survey(open_data(str(photos), kind="labels").train)
    drawn = [next(seen) for _ in range(len(batch.images))]
    expected = (batch.images.permute(0, 2, 3, 1).numpy() * found.std + found.mean) * 255
    assert np.abs(np.stack([image.pixels for image in drawn]) - expected.clip(0, 255)).max() < 1
    assert settled.augment == "deit3"


def test_boxes_are_the_first_training_batch_s(shapes, first_batch):
    options = ["--augment", "strong", "--image-size", "64"]
    batch = first_batch(["detect", "--data", str(shapes), *options])
    _, seen = show.training_images(train.parse(["detect", "--data", str(shapes), *options]), epoch=1)
    for target, image in zip(batch.targets, seen, strict=False):
        assert len(image.marks) == len(target["labels"]) and image.pixels.shape == (64, 64, 3)
        for mark, (x, y, w, h) in zip(image.marks, (target["boxes"] * 64).tolist(), strict=True):
            np.testing.assert_allclose(mark.xyxy, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), atol=1e-3)


def test_epochs_differ(shapes):
    recipe = train.parse(["detect", "--data", str(shapes), "--augment", "lsj", "--image-size", "64"])
    first, second = (next(show.training_images(recipe, epoch)[1]).pixels for epoch in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("data", "recipe"), [("digits", "digits"), ("scenes", "scenes"), ("photos", "folder"), ("shapes", "detect")]
)
def test_the_recipe_is_chosen_by_the_data(data, recipe, request):
    place = data if data in ("digits", "scenes") else str(request.getfixturevalue(data))
    assert show.recipe_for(place) == recipe


def test_a_grid_is_written(shapes, tmp_path, capsys):
    out = tmp_path / "new" / "grid.png"
    show.main([str(shapes), "--out", str(out), "--images", "7", "--augment", "light", "--image-size=64"])
    assert f"7 training images of epoch 1, augmentation light: {out}" in capsys.readouterr().out
    page = np.asarray(Image.open(out))
    columns, rows = 4, 2
    cell, line, gap = show.CELL, show.LINE, show.GAP
    assert page.shape == (rows * (cell + line + gap) + gap, columns * (cell + gap) + gap, 3)
    # The first place is taken, the last is empty.
    assert (page[gap:cell, gap:cell] != 255).any() and (page[-cell:-gap, -cell:-gap] == 255).all()


@pytest.mark.albumentations
def test_digits_and_the_epochs_there_are(tmp_path):
    command = ["digits", "--images", "4", "--out", str(tmp_path / "a.png")]
    show.main(command)
    assert (tmp_path / "a.png").is_file()
    with pytest.raises(UserError, match=r"--epoch 99: the run has 34\. Add --epochs to make it longer\."):
        show.main([*command, "--epoch", "99"])


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "vit", "data", "show", "digits", "--images", "4", "--out", str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and (tmp_path / "a.png").is_file(), done.stderr


def test_labels_in_words():
    classes = ["a", "b", "c"]
    assert label(np.array(2), classes, False) == "c"
    assert label(np.array([0.0, 0.38, 0.62]), classes, False) == "c 0.62, b 0.38"
    assert label(np.array([0.0, 1.0, 0.0]), classes, False) == "b"
    assert label(np.array([1.0, 0.0, 1.0]), classes, True) == "a, c"
    assert label(np.array([0.0, 0.0, 0.0]), classes, True) == "none"


def test_arguments_are_divided():
    own, rest = show.divided(["x", "--augment", "light", "--out", "a.png", "--lr", "-3", "--images=2", "--compile"])
    assert own == ["x", "--out", "a.png", "--images=2"]
    assert rest == ["--augment", "light", "--lr", "-3", "--compile"]


def test_mistakes_are_told(photos, tmp_path):
    with pytest.raises(UserError, match="no such data"):
        show.main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"cannot be written \(.*Choose another --out"):
        show.main([str(photos), "--image-size", "32", "--out", str(tmp_path / "grid.xyz")])
    for arguments, told in ((["--images", "0"], "--images must be at least 1"), (["--augmnet", "light"], "--augment")):
        with pytest.raises(UserError, match=told):
            show.main([str(photos), *arguments])
