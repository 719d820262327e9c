"""Rebuilding the splits of a training run from its record."""

import json

import numpy as np
import pytest

from vit.data import open_data, reopen
from vit.data.sets.imageset import ArraySet
from vit.data.sets.names import NameTable


def all_names(images):
    return [images.name(i) for i in range(len(images))]


def test_the_record_gives_the_same_splits(tmp_path, write_images, monkeypatch):
    write_images(tmp_path / "d", {"a": 12, "b": 9})
    monkeypatch.chdir(tmp_path)
    data = open_data("d", seed=5, kind="labels")
    record = json.loads(json.dumps(data.record))
    monkeypatch.chdir("/")
    for source in (None, str(tmp_path / "d")):
        again = reopen(record, source, kind="labels")
        assert {n: len(s) for n, s in again.splits().items()} == {n: len(s) for n, s in data.splits().items()}
        assert all_names(again.val) == [str(tmp_path / name) for name in all_names(data.val)]
        assert not any("changed" in note for note in again.notes)


def test_a_changed_folder_is_told(tmp_path, write_images):
    write_images(tmp_path, {"a": 12, "b": 9})
    record = open_data(str(tmp_path), kind="labels").record
    (tmp_path / "a" / "3.png").rename(tmp_path / "a" / "z.png")
    assert any("has changed since training" in note for note in reopen(record, kind="labels").notes)


def test_another_source_is_all_test(tmp_path, write_images):
    write_images(tmp_path, {"one/a": 5, "one/b": 5, "two/a": 3, "two/b": 3})
    data = reopen(open_data(str(tmp_path / "one"), kind="labels").record, str(tmp_path / "two"))
    assert {name: len(images) for name, images in data.splits().items()} == {"test": 6}


def test_digits_from_their_record():
    record = open_data("digits", kind="labels").record
    data = reopen(record, kind="labels")
    assert len(data.test) == 1000 and data.notes == []


def test_row_50_a_name_table_holds_arrays_only():
    names = [f"class {i % 7}/größe {i}.jpg" for i in range(1000)]
    table = NameTable.of(names)
    assert {type(value) for value in vars(table).values()} == {np.ndarray}
    assert [table[i] for i in range(1000)] == names
    assert [name.decode() for name in table.encoded()] == names
    chosen = table.select(np.array([999, 0, 5]))
    assert [chosen[i] for i in range(3)] == [names[999], names[0], names[5]]
    joined = NameTable.joined([chosen, NameTable.of([]), NameTable.of(["x"])])
    assert [joined[i] for i in range(4)] == [names[999], names[0], names[5], "x"]


def test_cache_keeps_small_sets_only():
    images = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
    small = ArraySet(["a"], np.zeros(4, np.int64), images, "x")
    assert not small.cache(limit=4 * 192 - 1)
    assert small.cache(limit=4 * 192)
    assert small.image(2) is small.image(2)
    np.testing.assert_array_equal(small.image(3)[:, :, 1], images[3])


@pytest.mark.parametrize("classes", [["b", "a", "c"], ["z", "c", "b", "a"]])
def test_relabel_follows_the_models_order(classes):
    images = np.zeros((3, 2, 2), np.uint8)
    single = ArraySet(["a", "b", "c"], np.array([0, 1, 2]), images, "x")
    single.relabel(classes)
    assert [classes[k] for k in single.targets] == ["a", "b", "c"]
    several = ArraySet(["a", "b", "c"], np.eye(3, dtype=np.float32), images, "x")
    several.relabel(classes)
    assert several.targets.dtype == np.float32
    assert [classes[k] for k in several.targets.argmax(axis=1)] == ["a", "b", "c"]
