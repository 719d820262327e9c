"""The same manifest as CSV, TSV, JSON lines and Parquet; one file a split; which format a folder is in."""

import csv
import json
import os

import numpy as np
import pytest

from vit.data import open_data
from vit.data.split_names import by_split, split_of
from vit.errors import UserError

KINDS = ["csv", "tsv", "jsonl", "parquet"]
SINGLE = [
    {"path": f"images/{i}.png", "label": "b" if i % 2 else "größe, a", "split": "train" if i < 6 else "val"}
    for i in range(9)
]
SEVERAL = [
    {"path": f"images/{i}.png", "labels": [["sea"], ["sea", "sky"], []][i % 3], "split": "train"} for i in range(9)
]


def write(path, rows):
    """The rows as a file of this suffix."""
    kind, columns = path.suffix[1:], list(rows[0])
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            writer.writerow(columns)
            flat = [{k: ";".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
            writer.writerows([[row[name] for name in columns] for row in flat])
    return path


@pytest.fixture
def here(tmp_path, write_images):
    write_images(tmp_path, {"images": 9})
    return tmp_path


def content(data):
    return {
        split: [(images.key(i), images.targets[i].tolist()) for i in range(len(images))]
        for split, images in data.splits().items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [SINGLE, SEVERAL], ids=["label", "labels"])
def test_every_kind_says_the_same(here, kind, rows):
    data = open_data(str(write(here / f"list.{kind}", rows)))
    own = data.train.classes
    assert own == (("b", "größe, a") if rows is SINGLE else ("sea", "sky"))
    position = {name: k for k, name in enumerate(own)}
    seen = {images.key(i).decode(): images.targets[i] for images in data.splits().values() for i in range(len(images))}
    assert len(seen) == 9
    for row in rows:
        if rows is SINGLE:
            assert seen[row["path"]] == position[row["label"]]
        else:
            np.testing.assert_array_equal(seen[row["path"]], [float(name in row["labels"]) for name in own])
    if rows is SINGLE:
        assert (len(data.train), len(data.val)) == (6, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_of_a_manifest_is_as_the_manifest(here, kind):
    path = write(here / f"list.{kind}", SINGLE)
    assert content(open_data(str(here))) == content(open_data(str(path)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_manifest_a_split(here, kind):
    rows = [{k: v for k, v in row.items() if k != "split"} for row in SINGLE]
    for name, part in (("train", rows[:4]), ("validation", rows[4:6]), ("test", rows[6:])):
        write(here / f"{name}.{kind}", part)
    data = open_data(str(here))
    assert {name: len(images) for name, images in data.splits().items()} == {"train": 4, "val": 2, "test": 3}
    assert content(open_data(data.record["source"])) == content(data)
    write(here / f"valid.{kind}", rows[4:6])
    with pytest.raises(UserError, match=r"has several manifests: .*Give the one to read"):
        open_data(str(here))


def test_a_wrong_row_is_told_with_its_own_file(here):
    rows = [{k: v for k, v in row.items() if k != "split"} for row in SINGLE]
    write(here / "train.csv", rows)
    write(here / "val.csv", [*rows[:2], {"path": "images/gone.png", "label": "b"}])
    with pytest.raises(UserError, match=r"images/gone\.png \(.*val\.csv, line 4\)"):
        open_data(str(here))


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("jsonl", '{"path": "images/0.png", "label": 1}\n[1]\n', "line 2: is not an object"),
        ("jsonl", '{"path": "images/0.png", "label": 1}\n{"path": "images/0.png"}\n', "line 2: has no label"),
        ("jsonl", '{"path": "images/0.png", "label": 1}\n\n{"path"\n', "line 3: is not JSON"),
        ("jsonl", '{"path": "images/0.png", "label": [1]}\n', r"line 1: the label is \[1\]"),
        ("jsonl", '{"path": "images/0.png", "label": null}\n', "line 1: the label is empty"),
        ("jsonl", '{"path": "", "label": 1}\n', "line 1: the path is empty"),
        ("jsonl", '{"path": "images/0.png", "labels": 3}\n', "line 1: labels is 3"),
        ("jsonl", '{"file": "images/0.png", "label": 3}\n', "line 1: the columns are file, label"),
        ("jsonl", "[" * 100_000, "list.jsonl"),
        ("jsonl", "\n", "the manifest is empty"),
        ("tsv", "path,label\nimages/0.png,1\n", "line 1: the columns are path,label; needed are"),
        ("parquet", "no", "is not a whole Parquet file"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(here, kind, text, message):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    (here / f"list.{kind}").write_text(text)
    with pytest.raises(UserError, match=rf"list\.{kind}.*{message}|{message}"):
        open_data(str(here / f"list.{kind}"))


def test_row_6_a_row_of_a_parquet_manifest(here):
    (here / "classes.txt").write_text("a\nb\n")
    path = write(here / "list.parquet", [{"path": f"images/{i}.png", "label": i} for i in range(3)])
    with pytest.raises(UserError, match=r"list\.parquet, row 2: the label 2 is outside the allowed range 0\.\.1"):
        open_data(str(path))


def test_hugging_faces_metadata_csv(here):
    rows = [{"file_name": row["path"], "label": row["label"]} for row in SINGLE]
    assert len(open_data(str(write(here / "metadata.csv", rows)), evaluation=True).test) == 9


def test_row_50_a_long_manifest_is_read_into_arrays(here):
    """Memory while reading is a small multiple of the file: no Python object a row is kept."""
    import tracemalloc

    from vit.data.labels.manifest import _read

    n = 50_000
    path = here / "long.csv"
    path.write_text("path,label\n" + "".join(f"images/{i:08d}/image.jpg,class {i % 100}\n" for i in range(n)))
    tracemalloc.start()
    table = _read({"all": str(path)})
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table.line) == n and len(table.words) == 100
    assert kept < 90 * n and peak < 250 * n


# Which format


def test_an_ambiguous_folder_is_told_with_what_was_seen(tmp_path, write_images):
    write_images(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "list.csv").write_text("path,label\na/0.png,a\nb/0.png,b\n")
    with pytest.raises(UserError) as told:
        open_data(str(tmp_path))
    assert str(told.value).splitlines()[1:] == [
        "  manifest: list.csv",
        "  folder: a/, b/",
        "Say which: --format manifest or --format folder.",
    ]
    assert len(open_data(str(tmp_path), format="folder", evaluation=True).test) == 6
    data = open_data(str(tmp_path), format="manifest", evaluation=True)
    assert len(data.test) == 2 and data.record["format"] == "manifest"
    with pytest.raises(UserError, match=r"no format 'foldr'\. Did you mean \"folder\""):
        open_data(str(tmp_path), format="foldr")


def test_tables_that_are_no_manifests_do_not_count(tmp_path, write_images):
    write_images(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "statistics.csv").write_text("n,mean\n6,0.5\n")
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)))
    assert len(open_data(str(tmp_path), evaluation=True).test) == 6


def test_shards_and_class_folders_are_ambiguous(tmp_path, write_images):
    write_images(tmp_path, {"train/a": 1, "train/b": 1})
    (tmp_path / "train" / "0.tar").touch()
    with pytest.raises(UserError, match=r"(?s)shards: train/0\.tar\n  folder: train/a/, train/b/\nSay which"):
        open_data(str(tmp_path))


def test_recognising_looks_at_few_entries_of_a_large_folder(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(500):
            (tmp_path / name / f"{i}.jpg").touch()
    looked = []
    scandir = os.scandir

    def counting(folder):
        class Counting:
            def __enter__(self):
                self.entries = scandir(folder)
                return (looked.append(entry.name) or entry for entry in self.entries)

            def __exit__(self, *_):
                self.entries.close()

        return Counting()

    from vit.data.labels.evidence import evidence

    monkeypatch.setattr("vit.data.labels.evidence.os.scandir", counting)
    assert evidence(str(tmp_path)) == {"folder": ["a/", "b/"]}
    assert len(looked) < 300


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00003.parquet", "train"),
        ("imagenet1k-validation-17.tar", "val"),
        ("imagenet1k_dev_17.tar", "val"),
        ("val2017.tar", "val"),
        ("data/0001.tar", None),
        ("training/0001.tar", "train"),
        ("test/train-1.tar", "train"),
        ("trainer-1.tar", None),
        ("contest.tar", None),
    ],
)
def test_splits_by_name(name, split):
    assert split_of(name) == split


def test_shards_of_each_split_are_in_order():
    assert by_split(["val-1", "train-2", "train-1"], "x") == {"train": ["train-1", "train-2"], "val": ["val-1"]}
    assert by_split(["b", "a"], "x") == {"all": ["a", "b"]}
