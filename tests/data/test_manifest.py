"""CSV manifests, and FAULTS rows 2, 4, 6, 11 and 57."""

import numpy as np
import pytest

from vit.data import open_data
from vit.errors import UserError


@pytest.fixture
def manifest(tmp_path, write_images):
    """manifest(text) -> path of a CSV beside images/0.png ... images/9.png."""
    write_images(tmp_path, {"images": 10})

    def write(text, encoding="utf-8"):
        path = tmp_path / "list.csv"
        path.write_text(text.replace("#", "images/"), encoding=encoding)
        return str(path)

    return write


def lines(header, *rows):
    return "\n".join([header, *rows]) + "\n"


def test_single_labels_are_split_80_20(manifest):
    rows = [f"#{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(10)]
    data = open_data(manifest(lines("path,label", *rows)))
    assert data.classes == ("cat", "dog")
    np.testing.assert_array_equal(data.train.counts(), [4, 4])
    np.testing.assert_array_equal(data.val.counts(), [1, 1])
    assert data.train.targets.dtype == np.int64
    assert data.train.image(0).shape == (8, 8, 3)
    for images in (data.train, data.val):
        for i in range(len(images)):
            number = int(images.name(i).split("/")[-1][0])
            assert images.targets[i] == (0 if number % 2 else 1)


def test_the_column_split(manifest):
    text = lines(
        "label,Split,path",
        "a,train,#0.png",
        "b,train,#1.png",
        "a,valid,#2.png",
        "b,val,#3.png",
        "a,test,#4.png",
    )
    data = open_data(manifest(text, encoding="utf-8-sig"))
    assert {name: len(images) for name, images in data.splits().items()} == {"train": 2, "val": 2, "test": 1}
    assert any("val has no" in note or "test has no image of: b" in note for note in data.notes)


def test_multi_label(manifest):
    text = lines("path,labels", "#0.png,sea;sky", "#1.png,sky|tree", "#2.png,", "#3.png,sea ; tree", "#4.png,sky")
    data = open_data(manifest(text))
    assert data.multilabel and data.classes == ("sea", "sky", "tree")
    together = {
        images.name(i)[-5]: images.targets[i].tolist() for images in (data.train, data.val) for i in range(len(images))
    }
    assert together == {"0": [1, 1, 0], "1": [0, 1, 1], "2": [0, 0, 0], "3": [1, 0, 1], "4": [0, 1, 0]}
    assert data.train.targets.dtype == np.float32


def test_files_that_are_listed_twice_are_told(manifest):
    rows = [f"#{i}.png,{'ab'[i % 2]},{'val' if i > 6 else 'train'}" for i in range(10)]
    assert not any("more than once" in note for note in open_data(manifest(lines("path,label,split", *rows))).notes)
    again = ["#0.png,a,train", "#0.png,a,train", "#1.png,a,train", "#3.png,b,train", "#8.png,b,val"]
    data = open_data(manifest(lines("path,label,split", *rows, *again)))
    assert [note for note in data.notes if "more than once" in note] == [
        "Warning: train lists 2 files more than once: images/0.png, images/3.png.",
        "Warning: train lists 1 files more than once, with different labels: images/1.png.",
        "Warning: val lists 1 files more than once, with different labels: images/8.png.",
    ]
    assert len(data.train) == 11  # each row counts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_manifest_from_a_spreadsheet(manifest, encoding):
    """A byte order mark, lines that end in CRLF, quotes, empty lines at the end."""
    text = 'path,label\r\n"#0.png","a, b"\r\n#1.png,c\r\n#2.png,"a, b"\r\n#3.png,c\r\n,\r\n\r\n'
    data = open_data(manifest(text, encoding=encoding))
    assert data.classes == ("a, b", "c") and len(data.train) + len(data.val) == 4


def test_numbers_are_ordered_as_numbers(manifest):
    data = open_data(manifest(lines("path,label", "#0.png,10", "#1.png,9", "#2.png,10", "#3.png,9")))
    assert data.classes == ("9", "10")


def test_row_6_a_label_beyond_the_classes(manifest, tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = open_data(manifest(lines("path,label", "#0.png,0", "#1.png,1", "#2.png,dog", "#3.png,cat")))
    assert data.classes == ("cat", "dog")
    np.testing.assert_array_equal(data.train.counts() + data.val.counts(), [2, 2])
    for label in ("2", "-1"):
        text = lines("path,label", "#0.png,0", f"#1.png,{label}")
        with pytest.raises(UserError, match=rf"list\.csv, line 3: the label {label} is outside .* 0\.\.1"):
            open_data(manifest(text))
    with pytest.raises(UserError, match=r'line 3: the label dogg is not in classes\.txt\. Did you mean "dog"'):
        open_data(manifest(lines("path,label", "#0.png,0", "#1.png,dogg")))


def test_row_6_a_negative_label_without_a_list_of_classes(manifest):
    with pytest.raises(UserError, match=r"list\.csv, line 3: the label -1 is negative; allowed are 0 and above"):
        open_data(manifest(lines("path,label", "#0.png,0", "#1.png,-1", "#2.png,1")))


def test_row_2_an_empty_manifest(manifest):
    with pytest.raises(UserError, match="the manifest is empty"):
        open_data(manifest(""))
    with pytest.raises(UserError, match="no rows"):
        open_data(manifest("path,label\n"))


def test_row_4_labels_that_train_does_not_have(manifest):
    text = lines("path,label,split", "#0.png,a,train", "#1.png,b,train", "#2.png,c,val")
    with pytest.raises(UserError, match="train and val differ: labels only in val: c"):
        open_data(manifest(text))


def test_row_11_images_that_do_not_exist(manifest, tmp_path):
    rows = [f"gone/{i}.png,a" for i in range(14)]
    with pytest.raises(UserError) as told:
        open_data(manifest(lines("path,label", "#0.png,b", *rows)))
    assert "14 of 15 images do not exist: gone/0.png (line 3)" in str(told.value)
    assert "gone/9.png (line 12) and 4 more" in str(told.value)
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines("file,label", "#0.png,a"), "line 1: the columns are file, label; needed are path and label"),
        (lines("path,label,labels", "#0.png,a,b"), "line 1: the columns"),
        (lines("path,label", "#0.png,a", "#1.png"), "line 3: 1 cells where the header has 2"),
        (lines("path,label", "#0.png,a", "#1.png,"), "line 3: the label is empty"),
        (lines("path,label,split", "#0.png,a,trian"), 'line 2: the split "trian" is not'),
        (lines("path,label,split", "#0.png,a,val", "#1.png,b,val"), "no line has the split train"),
        (lines("path,label", "#0.png,a", "#1.png,a"), r"one class only \(a\)"),
        (lines("path,label", "#0.png,a", "https://x.org/1.png,b"), "line 3: .* is a URL"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(manifest, text, message):
    with pytest.raises(UserError, match=rf"list\.csv.*{message}"):
        open_data(manifest(text))


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x.csv").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="not a CSV file in UTF-8"):
        open_data(str(tmp_path / "x.csv"))


def test_row_57_no_code_of_a_yaml_is_executed(tmp_path):
    mark = tmp_path / "mark"
    text = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n"
    (tmp_path / "data.yaml").write_text(f"download: {text}train: http://x.org/train\n")
    with pytest.raises(UserError, match=r"neither a folder nor a \.csv manifest"):
        open_data(str(tmp_path / "data.yaml"))
    assert not mark.exists()


def test_row_57_no_code_of_a_npz_or_manifest_is_executed(manifest, tmp_path):
    # The labels and paths of a manifest are text, whatever they look like.
    code = "__import__('os').system('touch mark')"
    data = open_data(manifest(lines("path,label", f'#0.png,"{code}"', '#1.png,"=cmd()"', "#2.png,a", "#3.png,a")))
    assert code in data.classes
    assert not (tmp_path / "mark").exists()


def test_an_archive_is_not_unpacked(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="Unpack the archive"):
        open_data(str(tmp_path / "x.zip"))
