"""Parquet with images, against pyarrow itself; `hf:` without a network. FAULTS rows 6, 11, 21, 32, 50, 57."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit.data import open_data
from vit.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def file_of(color, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(buffer, kind)
    return buffer.getvalue()


COLORS = [(10 * i, 200 - 10 * i, 5 * i) for i in range(20)]
CLASS_LABEL = {"names": ["cat", "dog", "hen"], "_type": "ClassLabel"}


def schema(label=CLASS_LABEL, kind=None, name="label", said=True):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, name: label}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if said else None
    return pa.schema([("image", image), (name, kind or pa.int64())], metadata=metadata)


def write(path, labels, *, first=0, form=None, name="label", group=3, images=None):
    """A Parquet file of images of COLORS from `first` on, `group` rows a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if images is None:
        images = [{"bytes": file_of(COLORS[first + i]), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": images, name: labels}, schema=form or schema(name=name))
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.fixture
def folder(tmp_path):
    """10 images of train in two files, 4 of validation and 3 of test."""
    write(tmp_path / "data/train-00000-of-00002.parquet", [0, 1, 2, 0, 1])
    write(tmp_path / "data/train-00001-of-00002.parquet", [2, 2, 1, 0, 0], first=5)
    write(tmp_path / "data/validation-00000-of-00001.parquet", [2, 1, 0, 1], first=10)
    write(tmp_path / "data/test-00000-of-00001.parquet", [0, 2, 1], first=14)
    return tmp_path


def test_splits_classes_and_pixels_are_those_of_the_files(folder):
    data = open_data(str(folder))
    assert data.classes == ("cat", "dog", "hen")
    assert {name: len(images) for name, images in data.splits().items()} == {"train": 10, "val": 4, "test": 3}
    np.testing.assert_array_equal(data.train.targets, [0, 1, 2, 0, 1, 2, 2, 1, 0, 0])
    np.testing.assert_array_equal(data.test.targets, [0, 2, 1])
    for images, first in ((data.train, 0), (data.val, 10), (data.test, 14)):
        for i in reversed(range(len(images))):
            np.testing.assert_array_equal(images.image(i), np.broadcast_to(COLORS[first + i], (4, 6, 3)))
    assert data.notes == []
    # The bytes are those that pyarrow reads.
    column = pq.read_table(folder / "data/train-00001-of-00002.parquet").column("image")
    assert data.train.file(7) == (".png", column[2].as_py()["bytes"])
    assert data.train.name(7).endswith("train-00001-of-00002.parquet, row 2")


def test_one_file_and_folders_named_by_split(tmp_path):
    alone = write(tmp_path / "all.parquet", [0, 1, 0, 1, 2, 2])
    data = open_data(str(alone))
    assert (len(data.train), len(data.val)) == (3, 3) and "seed 0" in data.notes[0]
    assert len(open_data(str(alone), evaluation=True).test) == 6
    for name in ("train", "val"):
        write(tmp_path / "hub/default" / name / "0000.parquet", [0, 1, 2])
    assert {n: len(s) for n, s in open_data(str(tmp_path / "hub")).splits().items()} == {"train": 3, "val": 3}


def test_two_data_sets_in_one_folder_are_told(tmp_path):
    for name in ("big", "small"):
        write(tmp_path / name / "train-0.parquet", [0, 1])
    with pytest.raises(UserError, match=r"holds 2 data sets, in the folders big, small\. Give one .*/big"):
        open_data(str(tmp_path))
    with pytest.raises(UserError, match=r"says its split, that of all\.parquet says none"):
        write(tmp_path / "mixed/all.parquet", [0, 1])
        write(tmp_path / "mixed/test.parquet", [0, 1])
        open_data(str(tmp_path / "mixed"))


def test_labels_in_lists_are_several(tmp_path):
    form = schema({"feature": CLASS_LABEL, "_type": "List"}, pa.list_(pa.int64()), "labels")
    write(tmp_path / "train.parquet", [[0, 2], [], [1], [2, 1]], form=form, name="labels")
    write(tmp_path / "val.parquet", [[0], [1, 0]], first=4, form=form, name="labels")
    data = open_data(str(tmp_path))
    assert data.multilabel
    np.testing.assert_array_equal(data.train.targets, [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 1]])


@pytest.mark.parametrize(
    ("kind", "labels", "classes"),
    [(pa.string(), ["b", "a", "b"], ("a", "b")), (pa.int32(), [10, 9, 10], ("9", "10"))],
)
def test_files_without_metadata(tmp_path, kind, labels, classes):
    form = schema(kind=kind, said=False)
    for name in ("train", "val"):
        write(tmp_path / f"{name}.parquet", labels, form=form)
    data = open_data(str(tmp_path))
    assert data.classes == classes
    assert [data.classes[k] for k in data.train.targets] == [str(label) for label in labels]


def test_class_names_that_are_numbers_in_another_order(tmp_path):
    form = schema({"names": ["2", "0", "1"], "_type": "ClassLabel"})
    for name in ("train", "val"):
        write(tmp_path / f"{name}.parquet", [0, 1, 2], form=form)
    data = open_data(str(tmp_path))
    assert [data.classes[k] for k in data.train.targets] == ["2", "0", "1"]


def test_several_label_columns_need_a_choice(tmp_path):
    image = {"bytes": file_of("red"), "path": None}
    features = {"image": {"_type": "Image"}, "coarse": CLASS_LABEL, "fine": {**CLASS_LABEL, "names": ["x", "y"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for name in ("train", "val"):
        table = pa.table({"image": [image] * 3, "coarse": [0, 1, 2], "fine": [1, 1, 0]})
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=r"several label columns \(coarse, fine\)\. Name one after a #: PATH#coarse"):
        open_data(str(tmp_path))
    data = open_data(f"{tmp_path}#fine")
    assert data.classes == ("x", "y") and data.train.targets.tolist() == [1, 1, 0]
    assert data.record["source"] == f"{tmp_path}#fine"
    with pytest.raises(UserError, match=r"no column 'fin'\. Did you mean \"fine\""):
        open_data(f"{tmp_path}#fin")


def test_rows_without_a_label_are_left_out_and_told(tmp_path):
    write(tmp_path / "train.parquet", [0, 1, None, 2, -1])
    write(tmp_path / "val.parquet", [0, 1, 2])
    write(tmp_path / "test.parquet", [-1, -1, -1])
    data = open_data(str(tmp_path))
    assert data.train.targets.tolist() == [0, 1, 2] and data.test is None
    assert data.train.name(2).endswith("train.parquet, row 3")
    assert [note for note in data.notes if "no label" in note] == [
        "Left out 2 images of train that have no label.",
        "Left out 3 images of test that have no label.",
    ]


def test_row_6_a_label_beyond_the_classes(tmp_path):
    write(tmp_path / "train.parquet", [0, 1, 1, 2, 3])
    write(tmp_path / "val.parquet", [0, 1, 2])
    with pytest.raises(UserError, match=r"train\.parquet, row 4: the label 3 is outside the allowed range 0\.\.2"):
        open_data(str(tmp_path))


def test_row_21_and_32_rows_without_a_whole_image(tmp_path):
    images = [{"bytes": file_of("red"), "path": None}, {"bytes": b"", "path": "a.jpg"}, {"bytes": None, "path": None}]
    images.append({"bytes": file_of("red", "JPEG")[:-60], "path": "cut.jpg"})
    write(tmp_path / "all.parquet", [0, 1, 2, 0], images=images)
    data = open_data(str(tmp_path), evaluation=True)
    for i, reason in ((1, r"row 1: the file is empty"), (2, "row 2: there is no image"), (3, "row 3: cannot be dec")):
        with pytest.raises(UserError, match=reason):
            data.test.image(i)


def test_images_beside_the_file_that_must_not_lead_out_of_the_data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/1.png").write_bytes(file_of("lime"))
    (tmp_path / "secret.png").write_bytes(file_of("red"))
    paths = ["1.png", "../secret.png", str(tmp_path / "secret.png")]
    write(tmp_path / "data/all.parquet", [0, 1, 2], images=[{"bytes": None, "path": path} for path in paths])
    test = open_data(str(tmp_path / "data"), evaluation=True).test
    assert test.image(0)[0, 0].tolist() == [0, 255, 0]
    for i in (1, 2):
        with pytest.raises(UserError, match=r"holds no bytes, and .*secret\.png is not in"):
            test.image(i)


@pytest.mark.parametrize("damage", ["cut", "garbage", "middle"])
def test_a_damaged_file_is_told_by_name(folder, damage):
    path = folder / "data/train-00000-of-00002.parquet"
    content = path.read_bytes()
    if damage == "middle":  # the footer is whole, and the images are not
        path.write_bytes(content[:4] + bytes(100) + content[104:])
        data = open_data(str(folder))
        with pytest.raises(UserError, match=r"train-00000-of-00002\.parquet.*(cannot be|no image|empty|not an image)"):
            [data.train.image(i) for i in range(5)]
        return
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"PAR1" + bytes(64))
    with pytest.raises(UserError, match=r"train-00000-of-00002\.parquet: is not a whole Parquet file"):
        open_data(str(folder))


def test_files_of_different_data_sets_are_told(tmp_path):
    write(tmp_path / "train.parquet", [0, 1, 2])
    write(tmp_path / "val.parquet", [0, 1], form=schema({"names": ["cat", "dog"], "_type": "ClassLabel"}))
    with pytest.raises(UserError, match=r"train\.parquet and val\.parquet .*the classes differ: hen"):
        open_data(str(tmp_path))


def test_data_with_boxes_belong_to_the_detector(tmp_path):
    table = pa.table({"image": [{"bytes": b"", "path": ""}], "objects": [{"bbox": [[1.0]]}]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(UserError, match="vitral train detect"):
        open_data(str(tmp_path), kind="labels")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_and_one_that_is_sent_the_set_read_the_same(folder):
    images = open_data(str(folder)).train
    here = [images.image(i).tolist() for i in range(7)]  # files are open before the fork
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, pickle.dumps([images.image(i).tolist() == here[i] for i in reversed(range(7))]))
        os._exit(0)
    assert pickle.loads(os.read(reader, 10_000)) == [True] * 7
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    sent = pickle.dumps(images)
    assert len(sent) < 10_000
    assert [pickle.loads(sent).image(i).tolist() for i in range(7)] == here


def test_row_50_a_process_keeps_a_bounded_part_of_the_file(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = [{"bytes": rng.bytes(100_000), "path": None} for _ in range(100)]
    write(tmp_path / "all.parquet", [i % 2 for i in range(100)], images=images, group=5)
    monkeypatch.setattr("vit.data.store.parquet_store.KEPT_BYTES", 2_000_000)
    store = open_data(str(tmp_path), evaluation=True).test.store
    before = pa.total_allocated_bytes()
    for row in rng.permutation(100).tolist() * 2:
        assert store.file(row)[1] == images[row]["bytes"]
        assert sum(kept.nbytes for kept in store._kept.values()) <= 2_000_000
        assert pa.total_allocated_bytes() - before < 4_000_000
    assert len(store._kept) == 3


def test_a_large_file_says_how_to_read_it_faster(tmp_path, monkeypatch):
    monkeypatch.setattr("vit.data.labels.parquet.KEPT_BYTES", 100)
    for name in ("train", "val"):
        write(tmp_path / f"{name}.parquet", [0, 1, 2])
    (note,) = [note for note in open_data(str(tmp_path)).notes if "row group" in note]
    assert "--cache disk" in note and "vitral data pack" in note


def test_without_pyarrow_the_remedy_is_told(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", [0, 1, 2])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow .*pip install -e \"\.\[parquet\]\""):
        open_data(str(tmp_path))


OFFLINE = """
import sys
from vit.data import open_data
from vit.errors import UserError
try:
    data = open_data(sys.argv[1])
    print(sorted((n, len(s)) for n, s in data.splits().items()), data.classes, data.notes, data.record["source"])
    print(data.train.image(0)[0, 0].tolist())
except UserError as error:
    print(error)
"""


def offline(cache, source):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", OFFLINE, source], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cached(cache, repository, commit, revision="main"):
    """The folder of a snapshot in the cache of huggingface_hub, as a download leaves it."""
    base = cache / "hub" / f"datasets--{repository.replace('/', '--')}"
    (base / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (base / "refs" / revision).write_text(commit)
    return base / "snapshots" / commit


@pytest.mark.slow
def test_the_hub_without_a_network(tmp_path, folder):
    snapshot = cached(tmp_path / "cache", "someone/animals", "0" * 40)
    for name in ("train", "validation"):
        write(snapshot / f"data/{name}-00000-of-00001.parquet", [0, 1, 2], first=3)
    told = offline(tmp_path / "cache", "hf:someone/animals")
    assert told.startswith("[('train', 3), ('val', 3)] ('cat', 'dog', 'hen') [")
    assert "[30, 170, 15]" in told and "hf:someone/animals" in told
    assert "could not be fetched and is not in the cache" in offline(tmp_path / "cache", "hf:someone/plants")
    assert "hf:OWNER/NAME" in offline(tmp_path / "cache", "hf:animals")


def test_what_the_hub_made_of_other_forms(tmp_path):
    snapshot = cached(tmp_path / "cache", "someone/animals", "0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").touch()
    converted = cached(tmp_path / "cache", "someone/animals", "1" * 40, "refs/convert/parquet")
    for name in ("train", "test"):
        write(converted / "default" / name / "0000.parquet", [0, 1, 2, 0, 1, 2])
    told = offline(tmp_path / "cache", "hf:someone/animals")
    assert "refs/convert/parquet" in told and "('train', 3), ('val', 3)" in told
