"""`vitral data check` finds every kind of fault that is planted, and nothing in a clean set."""

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.by_hand import Picture, coco, voc, voc_xml, yolo
from vit.commands.data.check import check, main
from vit.data.check import full as full_check
from vit.data.check import quick as quick_check
from vit.data.check.findings import Findings
from vit.data.check.kinds import KINDS
from vit.errors import UserError

CLASSES = ("cat", "horse", "owl")
planted: set[str] = set()
"""Kinds that some test of this file found where it had put them."""


def scene(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture of its own: blotches that stay what they are in another size."""
    few = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(few).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Class folders in which nothing is wrong."""
    seed = 0
    for split, count in (("train", 12), ("val", 3), ("test", 3)):
        for name in CLASSES:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for k in range(count):
                scene(seed := seed + 1).save(tmp_path / "set" / split / name / f"{k} ü.{'jpg' if k % 2 else 'PNG'}")
    return tmp_path / "set"


def ids(findings: Findings) -> dict[str, str]:
    """{kind: the first name}, and these count as planted."""
    found: dict[str, str] = {}
    for one in findings:
        found.setdefault(one.id, (one.names or [""])[0])
    planted.update(found)
    return found


def bomb(width: int) -> bytes:
    """A PNG that says it has width x width pixels."""
    header = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def plant_files(root: Path) -> dict[str, str]:
    """One fault of every kind in the images of train/cat; {kind: what its name holds}."""
    cat, jpeg = root / "train/cat", io.BytesIO()
    scene(1000).save(jpeg, "JPEG")
    (cat / "nothing.jpg").write_bytes(b"")
    (cat / "page.jpg").write_bytes(b"<!DOCTYPE html><html>404</html>")
    (cat / "cut.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    broken = (root / "train/cat/0 ü.PNG").read_bytes()
    (cat / "broken.png").write_bytes(broken[:60] + bytes(255 - b for b in broken[60:90]) + broken[90:])
    (cat / "bomb.png").write_bytes(bomb(20_000))
    Image.fromarray(np.full((48, 64), -3.5, np.float32)).save(cat / "values.tif")
    scene(1001).save(cat / "suffix.jpg", "PNG")
    (cat / "README.txt").write_text("hello")
    (cat / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (cat / "link.png").symlink_to("nowhere.png")
    scene(1002).save(root / "train/loose.png")
    (root / "extra").mkdir()
    scene(1003).save(cat / "Case.png")
    scene(1004).save(cat / "case.png")
    scene(1005).save(cat / "bell\x07.png")
    shutil.copy(root / "train/cat/1 ü.jpg", cat / "copy.jpg")
    shutil.copy(root / "train/cat/2 ü.PNG", root / "train/owl/other.png")
    shutil.copy(root / "train/cat/3 ü.jpg", root / "val/cat/seen.jpg")
    scene(1006, (320, 240)).save(cat / "large.png")
    scene(1006, (320, 240)).resize((160, 120)).save(cat / "small.jpg", quality=60)
    scene(1007, (320, 240)).save(cat / "train.png")
    scene(1007, (320, 240)).resize((200, 150)).save(root / "val/cat/again.jpg", quality=70)
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(1008).save(cat / "turned.jpg", exif=exif)
    scene(1009).save(cat / "moving.gif", save_all=True, append_images=[scene(1010)])
    scene(1011).convert("RGBA").save(cat / "glass.png")
    scene(1012).convert("CMYK").save(cat / "print.jpg")
    Image.new("RGB", (64, 48), (9, 9, 9)).save(cat / "blank.png")
    scene(1013, (5, 5)).save(cat / "tiny.png")
    scene(1014, (800, 600)).save(cat / "huge.png")
    scene(1015, (300, 20)).save(cat / "narrow.png")
    return {
        "file-empty": "nothing.jpg", "file-foreign": "page.jpg (an HTML page)", "file-truncated": "cut.jpg",
        "file-corrupt": "broken.png", "file-bomb": "bomb.png (20000x20000)",
        "file-values": "values.tif (floating-point values from -3.5 to -3.5; 0..1 and 0..255 are read)",
        "file-suffix": "suffix.jpg (PNG)", "file-other": ".txt (1)", "file-unread": ".heic (1)",
        "link-broken": "link.png", "image-loose": "loose.png", "folder-beside": "extra/", "name-case": "ase.png",
        "name-odd": "bell", "duplicate": "copy.jpg", "duplicate-conflict": "other.png", "leak": "seen.jpg",
        "near-duplicate": "small.jpg", "near-leak": "again.jpg", "image-turned": "turned.jpg",
        "image-frames": "moving.gif (2 frames)", "image-transparent": "glass.png", "image-mode": "print.jpg (CMYK)",
        "image-blank": "blank.png", "image-tiny": "tiny.png (5x5)", "image-huge": "huge.png (800x600)",
        "image-narrow": "narrow.png (300x20)",
    }  # fmt: skip


def test_a_clean_set_of_labels(clean: Path, capsys: pytest.CaptureFixture[str]):
    report, findings = check(str(clean), workers=1)
    assert list(findings) == []
    assert report["task"] == "classification" and report["sizes"]["median"] == [64, 48]
    assert report["splits"]["train"] == {"images": 36, "classes": dict.fromkeys(CLASSES, 12)}
    assert main([str(clean), "--strict", "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "train         36 images: cat 12, horse 12, owl 12" in told and "Nothing is wrong" in told


def test_every_planted_fault_of_labels_is_found(clean: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(full_check, "HUGE", 400_000)
    monkeypatch.setattr(quick_check, "IMBALANCE", 10)
    expected = plant_files(clean)
    for name, count in (("horses", 3), ("none", 0), ("val only", 0)):
        (clean / "train" / name).mkdir(exist_ok=True)
        for k in range(count):
            scene(2000 + k).save(clean / "train" / name / f"{k}.png")
    (clean / "train/val only").rmdir()
    for split, name in (("val", "val only"), ("val", "none"), ("test", "none"), ("test", "horses")):
        (clean / split / name).mkdir(exist_ok=True)
        scene(3000 + len(split) + len(name)).save(clean / split / name / "x.png")
    expected |= {
        "class-typo": "horse (18) and horses (4)", "class-empty": "none", "class-few": "horses (3)",
        "class-imbalance": "cat 33, horses 3", "classes-differ": "horses only in", "class-absent": "horses",
        "class-unseen": "none",
    }  # fmt: skip
    report, findings = check(str(clean), workers=1)
    found = ids(findings)
    assert {id for id in expected if id not in found} == set()
    assert {id: name for id, name in found.items() if expected.get(id, "?") not in name} == {}
    assert len(expected) >= 34
    # Each split has a finding of its own: val has images of two classes that train has none of, test of one.
    assert {(f.id, os.path.basename(f.where)): f.count for f in findings if f.count > 1} == {
        ("classes-differ", "val"): 2, ("class-empty", "train"): 2, ("class-unseen", "val"): 2,
        ("duplicate", "all splits"): 2,
    }  # fmt: skip
    assert report["errors"] == len(findings.of("error")) == 6
    assert main([str(clean), "--workers", "1"]) == 1


def test_the_fast_part_decodes_nothing(clean: Path, monkeypatch: pytest.MonkeyPatch):
    expected = plant_files(clean)

    def refuse(*_: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    report, findings = check(str(clean), fast=True)
    fast = {
        "file-empty", "file-other", "file-unread", "link-broken", "image-loose", "folder-beside", "name-case",
        "name-odd", "duplicate", "duplicate-conflict", "leak",
    }  # fmt: skip
    found = ids(findings)
    assert set(found) == fast and "sizes" not in report
    assert all(expected[id] in name for id, name in found.items())


def boxes(*rows: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return list(rows)


def clean_boxes(root: Path, write: Callable[..., None] = coco) -> Path:
    """A set of boxes in which nothing is wrong; images without boxes and crowds are no faults."""
    parts = {
        split: [
            Picture(f"{split}{k}.png", (64, 48), boxes((1, 2, 20, 30, "cat"), (30, 5, 60, 40, "dog")) if k else [])
            for k in range(count)
        ]
        for split, count in (("train", 12), ("val", 3), ("test", 3))
    }
    write(root, parts, ("cat", "dog"))
    for seed, file in enumerate(sorted(root.rglob("*.png"))):
        scene(seed).save(file)
    return root


@pytest.mark.parametrize("write", [coco, voc, yolo])
def test_a_clean_set_of_boxes(tmp_path: Path, write: Callable[..., None], capsys: pytest.CaptureFixture[str]):
    root = clean_boxes(tmp_path / "set", write)
    report, findings = check(str(root), workers=1)
    assert list(findings) == []
    assert report["splits"]["train"]["boxes"] == 22 and report["format"] == write.__name__
    main([str(root), "--fast"])
    assert "train         12 images, 22 boxes, 1 images without: cat 11, dog 11" in capsys.readouterr().out


def test_every_planted_fault_of_boxes_is_found(tmp_path: Path):
    root = clean_boxes(tmp_path / "set")
    file = root / "train/_annotations.coco.json"
    content = json.loads(file.read_text())
    images, rows = content["images"], content["annotations"]

    def image(name: str, size: tuple[int, int] = (64, 48), **more: Any) -> int:
        images.append({"id": 100 + len(images), "file_name": name, "width": 64, "height": 48, **more})
        scene(500 + len(images), size).save(root / "train" / name)
        return images[-1]["id"]

    def box(where: int, sides: list[Any], category: int = 1, **more: Any) -> None:
        rows.append({"id": 1000 + len(rows), "image_id": where, "category_id": category, "bbox": sides, **more})

    box(1, [3, 3, 9, 9], id=0)
    box(1, [3, 3, 9])
    box(99, [3, 3, 9, 9])
    box(1, [3, 13, 9, 9], category=7)
    box(image("twin.png", id=7), [3, 3, 9, 9])
    images.append({**images[3], "id": 90})
    images.append({**images[3], "id": 91, "file_name": "gone.png"})
    scene(700).save(root / "train/forgotten.png")
    image("other size.png", (48, 64))
    box(2, [3, 3, 0, 9])
    box(2, [3, float("nan"), 5, 9])
    box(2, [40, 3, 40, 9])
    box(3, [3, 3, 0.2, 9])
    full = image("whole.png")
    box(full, [0, 0, 64, 48], category=2)
    for k, category in enumerate((1, 1, 2)):
        box(4 + k // 2, [7, 7, 11, 11], category=category)
    box(5, [7, 7, 11, 11])
    crowded = image("crowded.png")
    for k in range(101):
        box(crowded, [k % 40, k // 40, 8, 9])
    content["categories"] += [{"id": 3, "name": "unused"}, {"id": 4, "name": "Dog"}]
    file.write_text(json.dumps(content))
    bare = root / "test/_annotations.coco.json"
    bare.write_text(json.dumps({**json.loads(bare.read_text()), "annotations": []}))
    expected = {
        "annotation-id": "annotation 0", "annotation-malformed": "bbox [3, 3, 9]",
        "annotation-unlisted": "image 99", "label-unknown": ": 7", "image-id-twice": "7", "image-twice": "train3.png",
        "image-missing": "gone.png", "image-unlisted": "forgotten.png",
        "size-differs": "other size.png: the image is 48x64 pixels, its annotations say 64x48",
        "box-empty": "train1.png", "box-not-finite": "train1.png", "box-beyond": "train1.png",
        "box-tiny": "train2.png", "box-whole": "whole.png: dog at 0,0,64,48", "box-twice": "train3.png",
        "box-two-classes": "train4.png", "image-crowded": "crowded.png (101)", "split-without-boxes": "3 images",
        "class-typo": "dog", "class-empty": "unused", "classes-differ": "Dog (4) only in",
    }  # fmt: skip
    report, findings = check(str(root), workers=1)
    found = ids(findings)
    assert {id for id in expected if id not in found} == set()
    assert {id: name for id, name in found.items() if id in expected and expected[id] not in name} == {}
    # An image that is listed twice is its own duplicate.
    allowed = {*expected, "class-absent", "class-few", "class-imbalance", "duplicate", "duplicate-conflict"}
    assert set(found) <= allowed
    assert report["splits"]["train"]["images"] == len(images) - 1
    with pytest.raises(UserError, match=r"There are more errors \(.*\): vitral data check lists all"):
        from vit.data.open import open_data

        open_data(str(root), kind="boxes")


def test_faults_of_yolo_and_voc(tmp_path: Path):
    root = clean_boxes(tmp_path / "yolo", yolo)
    data = (root / "data.yaml").read_text().replace("path: .", "path: /content/x\ndownload: https://x.org/a.zip")
    (root / "data.yaml").write_text(data.replace("test: images/test", "test: images/gone"))
    for file in sorted((root / "labels/val").glob("*.txt")):
        file.unlink()
    (root / "labels/train/train1.txt").write_text("0 30 20 5 5\n")
    (root / "labels/train/lost.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    found = ids(check(str(root), workers=1)[1])
    assert {
        "yaml-code",
        "yaml-path",
        "test-missing",
        "box-not-share",
        "annotation-unlisted",
        "split-without-boxes",
    } <= set(found)
    (root / "data.yaml").write_text(data.replace("val: images/val", "val: images/gone"))
    assert "split-missing" in ids(check(str(root), workers=1)[1])

    root = clean_boxes(tmp_path / "voc", voc)
    text = voc_xml(Picture("train1.png", (64, 48), boxes((-1, 2, 20, 30, "cat"))))
    (root / "Annotations/train2.xml").write_text(text)
    found = ids(check(str(root), workers=1)[1])
    assert {"voc-filename", "voc-from-zero"} <= set(found)


def test_more_than_half_of_a_split_without_boxes(tmp_path: Path):
    coco(
        tmp_path / "set", {"train": [Picture("a.png", boxes=[(1, 1, 9, 9, "cat")]), Picture("b.png"), Picture("c.png")]}
    )
    assert "image-bare" in ids(check(str(tmp_path / "set"), fast=True)[1])


def test_data_that_cannot_be_opened(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "broken.json"
    file.write_text("{")
    assert main([str(file)]) == 1
    assert "ERROR source-unreadable" in capsys.readouterr().out
    for name in ("val", "test"):
        shutil.rmtree(clean / name)
    for name in CLASSES[1:]:
        shutil.rmtree(clean / "train" / name)
    assert "class-alone" in ids(check(str(clean), fast=True)[1])
    assert "source-unreadable" in ids(check(str(file))[1])
    with pytest.raises(UserError, match=r"sett: no such data .*Did you mean \".*set\""):
        check(str(tmp_path / "sett"))


def test_files_that_go_away_and_boxes_in_corners(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What can only happen between the listing and the reading."""

    def vanish(*arguments: Any, **options: Any) -> Any:
        (clean / "train/cat/0 ü.PNG").unlink()
        return quick(*arguments, **options)

    quick = quick_check.quick_check
    monkeypatch.setattr("vit.commands.data.check.quick_check", vanish)
    assert "0 ü.PNG" in ids(check(str(clean), workers=1)[1])["file-unreadable"]
    monkeypatch.undo()
    scene(1).save(tmp_path / "a.png")
    line = {"file_name": "a.png", "objects": {"bbox": [[30, 20, 60, 40]] * 2, "category": [0, 1]}}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    assert "box-corners" in ids(check(str(tmp_path / "metadata.jsonl"), fast=True)[1])


def test_every_kind_was_planted():
    """Runs last: the tests above found each of them."""
    if len(planted) < 20:
        pytest.skip("needs the other tests of this file")
    assert set(KINDS) - planted == set()


def test_kinds_are_complete():
    for id, kind in KINDS.items():
        assert id == id.lower() and kind.title and kind.remedy.endswith((".", "?"))


def test_json_strict_and_exit_codes(clean: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copy(clean / "train/cat/0 ü.PNG", clean / "train/cat/copy.png")
    assert main([str(clean), "--json", "--workers", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["errors"], report["warnings"], report["notes"]) == (0, 1, 0)
    (found,) = report["findings"]
    assert (found["id"], found["severity"], found["count"], found["of"]) == ("duplicate", "warning", 1, 55)
    assert "copy.png (train)" in found["first"][0] and found["remedy"]
    assert main([str(clean), "--strict", "--fast"]) == 1


def test_only_the_first_ten_names_are_shown(clean: Path, capsys: pytest.CaptureFixture[str]):
    for k in range(14):
        (clean / "train/cat" / f"{k}.jpg").write_bytes(b"")
    main([str(clean), "--fast"])
    told = capsys.readouterr().out
    assert "WARNING file-empty: files of 0 bytes, left out: 14" in told
    assert told.count(".jpg\n") == 10 and "and 4 more" in told and "Replace or remove them." in told


def test_several_processes_find_the_same(clean: Path, monkeypatch: pytest.MonkeyPatch):
    plant_files(clean)
    alone = check(str(clean), workers=1)[0]["findings"]
    monkeypatch.setattr(full_check, "ALONE", 0)
    assert check(str(clean), workers=2)[0]["findings"] == alone


def test_images_in_memory_are_checked_too(monkeypatch: pytest.MonkeyPatch):
    from vit.data.bundled import scenes

    monkeypatch.setattr(scenes, "COUNTS", {"train": 6, "val": 4, "test": 4})
    report, findings = check("scenes", workers=1)
    assert report["splits"]["train"]["images"] == 6 and not findings.of("error")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(clean: Path):
    (clean / "train/cat/0 ü.PNG").chmod(0)
    assert "file-unreadable" in ids(check(str(clean), workers=1)[1])
