"""Class folders, and FAULTS rows 1 to 4, 19 to 21."""

import os
import shutil

import numpy as np
import pytest

from vit.data import open_data
from vit.errors import UserError


def names(images):
    return [os.path.relpath(images.name(i), images.root) for i in range(len(images))]


def test_train_val_test(tmp_path, write_images):
    write_images(tmp_path, {f"{s}/{c}": n for s, n in (("train", 4), ("val", 2), ("test", 3)) for c in ("b", "a")})
    data = open_data(str(tmp_path))
    assert data.classes == ("a", "b")
    assert [len(images) for images in data.splits().values()] == [8, 4, 6]
    np.testing.assert_array_equal(data.train.targets, [0, 0, 0, 0, 1, 1, 1, 1])
    assert names(data.val) == [os.path.join(c, f"{i}.png") for c in "ab" for i in range(2)]
    assert data.notes == []
    assert data.train.image(0).shape == (8, 8, 3)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_every_name_of_validation(tmp_path, write_images, val):
    write_images(tmp_path, {f"{s}/{c}": 2 for s in ("train", val) for c in ("a", "b")})
    data = open_data(str(tmp_path))
    assert len(data.val) == 4
    assert data.test is None
    assert any("no test split" in note for note in data.notes)


def test_two_validation_folders_are_ambiguous(tmp_path, write_images):
    write_images(tmp_path, {f"{s}/{c}": 1 for s in ("train", "val", "valid") for c in ("a", "b")})
    with pytest.raises(UserError, match="both val/ and valid/"):
        open_data(str(tmp_path))


def test_flat_is_split_80_20_by_class_and_seed(tmp_path, write_images):
    write_images(tmp_path, {"a": 20, "b": 11, "c": 1, "d": 2})
    data = open_data(str(tmp_path), seed=3)
    np.testing.assert_array_equal(data.train.counts(), [16, 9, 1, 1])
    np.testing.assert_array_equal(data.val.counts(), [4, 2, 0, 1])
    assert set(names(data.train)).isdisjoint(names(data.val))
    assert len(data.train) + len(data.val) == 34
    assert data.record["seed"] == 3 and "BLAKE2b" in data.record["rule"]
    assert any("seed 3: 27 train, 7 val" in note for note in data.notes)
    again, other = open_data(str(tmp_path), seed=3), open_data(str(tmp_path), seed=4)
    assert names(again.val) == names(data.val)
    assert names(other.val) != names(data.val)


def test_the_rule_depends_on_names_only(tmp_path, write_images):
    write_images(tmp_path / "here", {"a": 20, "b": 20})
    shutil.copytree(tmp_path / "here", tmp_path / "moved")
    first = open_data(str(tmp_path / "here"))
    assert names(open_data(str(tmp_path / "moved")).val) == names(first.val)
    # Five more files move few of the others.
    write_images(tmp_path / "moved", {"a": 25})
    kept = set(names(open_data(str(tmp_path / "moved")).val)) & set(names(first.val))
    assert len(kept) >= 5


def test_train_without_val_is_split_and_test_left_alone(tmp_path, write_images):
    write_images(tmp_path, {"train/a": 10, "train/b": 10, "test/a": 3, "test/b": 3})
    data = open_data(str(tmp_path))
    assert [len(images) for images in data.splits().values()] == [16, 4, 6]


def test_images_in_folders_below_the_class(tmp_path, write_images):
    write_images(tmp_path, {"train/a/2024/may": 2, "train/a": 1, "train/b": 2, "val/a": 1, "val/b/x": 1})
    data = open_data(str(tmp_path))
    np.testing.assert_array_equal(data.train.counts(), [3, 2])
    assert os.path.join("a", "2024", "may", "0.png") in names(data.train)


def test_row_1_missing_path_is_told_with_the_nearest_one(tmp_path, write_images, monkeypatch):
    write_images(tmp_path, {"photos/a": 1, "photos/b": 1})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        open_data("photo")
    assert str(told.value) == f'photo: no such data (current folder: {tmp_path}). Did you mean "photos"?'
    with pytest.raises(UserError, match=f'Did you mean "{tmp_path / "photos"}"'):
        open_data(str(tmp_path / "phtos" / "train"))
    with pytest.raises(UserError, match='Did you mean "digits"'):
        open_data("digit")


def test_row_2_empty_folders(tmp_path, write_images):
    with pytest.raises(UserError, match="no images"):
        open_data(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no images in 2 folders \(a, b\)"):
        open_data(str(tmp_path))
    write_images(tmp_path, {"train/a": 1, "train/b": 1})
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="val: no images"):
        open_data(str(tmp_path))


def test_row_3_a_class_without_images_is_told_with_the_table(tmp_path, write_images):
    write_images(tmp_path, {"train/a": 3, "train/b": 0, "train/c": 2, "val/a": 1, "val/b": 1, "val/c": 0})
    data = open_data(str(tmp_path))
    assert data.classes == ("a", "b", "c")
    (note,) = [note for note in data.notes if "without images" in note]
    assert "b (train), c (val)" in note
    assert [line.split() for line in note.splitlines()[1:]] == [
        ["class", "train", "val"],
        ["b", "0", "1"],
        ["c", "2", "0"],
        ["a", "3", "1"],
    ]


def test_row_4_class_sets_that_differ(tmp_path, write_images):
    write_images(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/c": 1})
    with pytest.raises(
        UserError, match=r"val: classes that not every split has: 2 \(b only in .*train, c only in .*val\)"
    ):
        open_data(str(tmp_path))


def test_row_4_test_may_lack_a_class_but_not_add_one(tmp_path, write_images):
    write_images(tmp_path, {f"{s}/{c}": 1 for s in ("train", "val") for c in ("a", "b", "c")})
    write_images(tmp_path, {"test/c": 2, "test/b": 1})
    data = open_data(str(tmp_path))
    np.testing.assert_array_equal(data.test.targets, [1, 2, 2])
    assert data.test.classes == data.classes
    write_images(tmp_path, {"test/d": 1})
    with pytest.raises(UserError, match=r"test: classes that not every split has: 1 \(d only in .*test\)"):
        open_data(str(tmp_path))


def test_one_class_and_images_without_class_are_explained(tmp_path, write_images):
    write_images(tmp_path, {"wrapped/a": 2, "wrapped/b": 2})
    with pytest.raises(
        UserError, match=r"the only class folder: 1 \(.*wrapped\)\. Two are the least.*give it as the data"
    ):
        open_data(str(tmp_path))
    write_images(tmp_path / "bare", {"": 4})
    with pytest.raises(UserError, match=r"4 images but no class folders.*CLASS"):
        open_data(str(tmp_path / "bare"))


def test_images_beside_class_folders_are_told(tmp_path, write_images):
    write_images(tmp_path, {"a": 5, "b": 5, "": 1})
    data = open_data(str(tmp_path))
    assert len(data.train) + len(data.val) == 10
    assert any("images in no class folder, left out: 1 " in note for note in data.notes)


def test_folders_beside_train_are_told(tmp_path, write_images):
    write_images(tmp_path, {"train/a": 5, "train/b": 5, "extra/a": 5})
    assert any("extra" in note for note in open_data(str(tmp_path)).notes)


def test_val_without_train(tmp_path, write_images):
    write_images(tmp_path, {"val/a": 2, "val/b": 2})
    with pytest.raises(UserError, match="no train/"):
        open_data(str(tmp_path))


def test_no_class_has_two_images(tmp_path, write_images):
    write_images(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(UserError, match="no class has two images"):
        open_data(str(tmp_path))


def test_litter_and_other_files_are_left_out(tmp_path, write_images):
    write_images(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    write_images(tmp_path, {"__MACOSX/a": 1, ".cache/a": 1, "train/.ipynb_checkpoints": 1, "train/a/@eaDir": 1})
    (tmp_path / "train" / "a" / "._0.png").write_bytes(b"x")
    (tmp_path / "train" / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "train" / "b" / "photo.HEIC").write_bytes(b"x")
    data = open_data(str(tmp_path))
    assert data.classes == ("a", "b")
    assert len(data.train) == 4
    assert "formats that are not read, left out: 1 (.heic (1))." in data.notes[0]


def test_row_19_the_same_file_in_train_and_val(tmp_path, write_images):
    write_images(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    assert not any("two splits" in note for note in open_data(str(tmp_path)).notes)
    shutil.copy(tmp_path / "train" / "a" / "1.png", tmp_path / "val" / "a" / "copy.png")
    (note,) = [note for note in open_data(str(tmp_path)).notes if "two splits" in note]
    assert note.startswith("Warning: 1 files are in two splits")
    assert os.path.join("train", "a", "1.png") in note and "copy.png (val)" in note


def test_row_20_names_and_suffixes(tmp_path, write_images):
    write_images(tmp_path, {"train/größe 图像": 1, "train/with space": 1}, suffix=" Ö.PNG")
    write_images(tmp_path, {"val/größe 图像": 1, "val/with space": 1}, suffix=".TIF")
    data = open_data(str(tmp_path))
    assert data.classes == ("größe 图像", "with space")
    assert data.train.name(0).endswith("0 Ö.PNG")
    assert data.train.image(0).shape == data.val.image(1).shape == (8, 8, 3)


def test_row_20_a_name_that_is_not_unicode(tmp_path, write_images):
    write_images(tmp_path, {"a": 2, "b": 2})
    try:
        os.rename(tmp_path / "a" / "0.png", os.path.join(os.fsencode(tmp_path), b"a", b"\xff.png"))
    except OSError:
        pytest.skip("this file system refuses such names")
    data = open_data(str(tmp_path))
    assert sorted(images.image(i).shape for images in (data.train, data.val) for i in range(2)) == [(8, 8, 3)] * 4


def test_row_21_empty_files_are_quarantined_by_name(tmp_path, write_images):
    write_images(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "b" / "nothing.jpg").touch()
    data = open_data(str(tmp_path))
    assert len(data.train) + len(data.val) == 10
    assert f"files of 0 bytes, left out: 1 ({tmp_path / 'b' / 'nothing.jpg'})." in data.notes[0]


def test_links(tmp_path, write_images):
    write_images(tmp_path / "store", {"x": 3})
    write_images(tmp_path / "data", {"b": 4})
    (tmp_path / "data" / "a").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "data" / "b" / "loop").symlink_to(tmp_path / "data" / "b")
    (tmp_path / "data" / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = open_data(str(tmp_path / "data"))
    np.testing.assert_array_equal(data.train.counts() + data.val.counts(), [3, 4])
    assert any("gone.png" in note and "lead nowhere" in note for note in data.notes)


def test_evaluation_takes_everything_that_is_not_split_as_test(tmp_path, write_images):
    write_images(tmp_path, {"b": 3, "c": 2})
    data = open_data(str(tmp_path), evaluation=True)
    assert list(data.splits()) == ["test"]
    assert len(data.test) == 5 and len(data.train) == 0
    data.test.relabel(["a", "b", "c"])
    np.testing.assert_array_equal(data.test.targets, [1, 1, 1, 2, 2])
    with pytest.raises(UserError, match=r'no class c\. Did you mean "C2"'):
        data.test.relabel(["a", "b", "C2"])


def test_evaluation_needs_no_train_folder(tmp_path, write_images):
    write_images(tmp_path, {"test/a": 3})
    assert len(open_data(str(tmp_path), evaluation=True).test) == 3
