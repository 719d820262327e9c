"""`vitral predict` with a detector: text, JSON, pictures, videos. tests/test_cli.py has the classifier's part."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import vit.__main__ as cli
from vit.commands.predict import parse_threshold
from vit.errors import UserError
from vit.images.video import VideoWriter, frame_rate, frames

PLAIN = ["--device", "cpu"]


def red_square(i: int) -> np.ndarray:
    image = np.random.default_rng(i).normal(130, 14, (64, 96, 3))
    image[20:42, 5 + 4 * i : 29 + 4 * i] = (210, 40, 40)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """12 frames, 6 a second: a red square that moves to the right."""
    with VideoWriter(tmp_path / "clip.mp4", 6) as writer:
        for i in range(12):
            writer.write(red_square(i))
    return tmp_path / "clip.mp4"


def test_a_line_an_image(detector: SimpleNamespace, capsys: pytest.CaptureFixture[str]):
    folder = detector.shapes / "test"
    files = [str(folder / f"{i}.png") for i in (0, 5)]
    assert cli.command(["predict", str(detector.run), *files, *PLAIN]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{files[0]}: ") and first.endswith("]") and " % [" in first
    assert second == f"{files[1]}: nothing found"
    assert cli.command(["predict", str(detector.run), files[0], "--top", "1", "--threshold", "0", *PLAIN]) == 0
    assert capsys.readouterr().out.count("%") == 1


def test_json_and_pictures(detector: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a/x.png", "b/x.png", "b/y.JPG"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(detector.shapes / "test" / "0.png") as image:
            image.save(tmp_path / "in" / name)
    (tmp_path / "in" / "b" / "z.png").write_bytes(b"no image")
    arguments = ["predict", str(detector.run), str(tmp_path / "in"), str(tmp_path / "in" / "a" / "x.png")]
    assert cli.command([*arguments, "--json", "--out", str(tmp_path / "out"), *PLAIN]) == 1
    printed = capsys.readouterr()
    answers = json.loads(printed.out)
    assert len(printed.out.splitlines()) == len(answers) + 1 == 6
    assert ["error" in answer for answer in answers] == [False, False, False, True, False]
    assert {box["category_id"] for answer in answers[:3] for box in answer["boxes"]} <= {0, 3, 7}
    assert answers[0]["boxes"] == answers[1]["boxes"] and answers[0]["width"] == 64
    pictures = sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*"))
    assert pictures == ["a/x.png", "b/x.png", "b/y.jpg"]
    with Image.open(tmp_path / "out" / "a" / "x.png") as picture:
        assert picture.size == (512, 512)


def test_files_of_one_name_get_a_picture_each(detector: SimpleNamespace, tmp_path: Path):
    places = [tmp_path / folder / "x.png" for folder in ("a", "b")]
    for place in places:
        place.parent.mkdir()
        place.write_bytes((detector.shapes / "test" / "0.png").read_bytes())
    cli.command(["predict", str(detector.run), *map(str, places), "--out", str(tmp_path / "out"), *PLAIN])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["x-2.png", "x.png"]


def test_an_image_is_never_overwritten(detector: SimpleNamespace, tmp_path: Path):
    image = tmp_path / "x.png"
    image.write_bytes((detector.shapes / "test" / "0.png").read_bytes())
    before = image.read_bytes()
    with pytest.raises(UserError, match="would be lost"):
        cli.command(["predict", str(detector.run), str(image), "--out", str(tmp_path), *PLAIN])
    assert image.read_bytes() == before


def test_every_other_frame_of_a_video(
    detector: SimpleNamespace, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    image = str(detector.shapes / "test" / "0.png")
    arguments = ["predict", str(detector.run), image, str(clip), image, "--every", "2", "--batch-size", "4"]
    assert cli.command([*arguments, "--json", "--out", str(tmp_path / "out"), *PLAIN]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 8 and "frame" not in answers[0] and answers[-1]["boxes"] == answers[0]["boxes"]
    for i, answer in enumerate(answers[1:-1]):
        assert (answer["source"], answer["frame"]) == (str(clip), 2 * i)
        assert answer["seconds"] == pytest.approx(2 * i / 6, abs=1e-3)
        reds = [box for box in answer["boxes"] if box["label"] == "red"]
        middle = (reds[0]["xyxy"][0] + reds[0]["xyxy"][2]) / 2
        assert abs(middle - (17 + 8 * i)) < 10  # the boxes move with the square
    drawn = list(frames(tmp_path / "out" / "clip.mp4"))
    assert len(drawn) == 6 and frame_rate(tmp_path / "out" / "clip.mp4") == pytest.approx(3)
    assert drawn[0].image.shape == (320, 480, 3)  # enlarged, as small pictures are
    assert cli.command(["predict", str(detector.run), str(clip), "--every", "6", *PLAIN]) == 0
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"{clip} frame 0 (0.00 s)", f"{clip} frame 6 (1.00 s)"
    ]  # fmt: skip


def test_frames_come_back_as_they_were_written(clip: Path):
    read = list(frames(clip))
    assert [frame.index for frame in read] == list(range(12))
    for frame in read:
        assert frame.image.dtype == np.uint8 and frame.image.shape == (64, 96, 3)
        # The codec loses detail, not color: red is red, not blue.
        inside = frame.image[24:38, 10 + 4 * frame.index : 24 + 4 * frame.index].mean(axis=(0, 1))
        assert np.abs(inside - (210, 40, 40)).max() < 25
    with VideoWriter(clip.with_name("odd.mp4"), 5) as writer:
        writer.write(np.zeros((33, 51, 3), np.uint8))
    assert next(frames(clip.with_name("odd.mp4"))).image.shape == (32, 50, 3)


def test_a_classifier_labels_frames_too(trained: SimpleNamespace, clip: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.command(["predict", str(trained.run), str(clip), "--every", "5", "--json", *PLAIN]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["frame"] for answer in answers] == [0, 5, 10] and "label" in answers[0]


def test_thresholds_on_the_command_line():
    assert parse_threshold((), ["a"]) is None and parse_threshold(("0.3",), ["a"]) == 0.3
    assert parse_threshold(("per-class",), ["a"]) == "per-class"
    assert parse_threshold(("a=b=.5",), ["a", "a=b"]) == {"a=b": 0.5}
    assert parse_threshold(("b=.5", ".3"), ["a", "b"]) == {"a": 0.3, "b": 0.5}
    for given, message in (
        (("high",), "CLASS=NUMBER"),
        (("a=",), "CLASS=NUMBER"),
        ((".1", ".2"), "two numbers"),
        (("per-class", ".1"), "per-class alone"),
    ):
        with pytest.raises(UserError, match=message):
            parse_threshold(given, ["a"])


def test_mistakes(detector: SimpleNamespace, trained: SimpleNamespace, tmp_path: Path):
    image = str(detector.shapes / "test" / "0.png")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ([str(detector.run), image, "--threshold", "gruen=.3"], 'Did you mean "grün"'),
        ([str(detector.run), image, "--tile", "0"], "tile, a side in pixels"),
        ([str(detector.run), image, "--every", "0"], "at least 1"),
        ([str(detector.run), str(tmp_path / "bad.mp4")], "OpenCV cannot open it"),
        ([str(detector.run), image, "--out", str(tmp_path / "file")], "cannot be written"),
        ([str(trained.run), image, "--out", str(tmp_path / "out")], "--out is for detectors"),
        ([str(trained.run), image, "--nms", "0.5"], "--nms is for detectors"),
        ([str(trained.run), image, "--threshold", "bluish=.5"], "are for detectors"),
    ):
        with pytest.raises(UserError, match=message):
            cli.command(["predict", *arguments, *PLAIN])
