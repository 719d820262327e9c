"""The cards of public data sets: their facts against torchvision's classes, and each opened in a stand-in."""

import json
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from PIL import Image

from tests.data.by_hand import Picture, voc
from vit.__main__ import main
from vit.data import open_data, reopen
from vit.data.boxes.torchvision import READERS, YEARS
from vit.data.bundled.cards import card, cards, names, read_card
from vit.data.bundled.place import FOLDER
from vit.data.formats import named
from vit.data.labels.torchvision import SETS
from vit.data.sets.data import BUNDLED, Data, DetectionData
from vit.errors import UserError

ROOT = Path(__file__).parents[2]
CARDS = {each.name: each for each in cards()}
LEAST = [
    "digits",
    "scenes",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "svhn",
    "oxford-iiit-pet",
    "flowers102",
    "food101",
    "eurosat",
    "imagenette",
    "imagenet-1k",
    "coco-2017",
    "voc-2007",
    "voc-2012",
]
rng = np.random.default_rng(0)


def test_there_is_a_card_for_every_set_and_nothing_else():
    assert {*LEAST} <= {*CARDS} == {*names()}
    assert {name for name, each in CARDS.items() if each.source == "bundled"} == {*BUNDLED}
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {"README.md", "digits", *(f"{name}.yaml" for name in CARDS)}


@pytest.mark.parametrize("name", CARDS)
def test_facts_that_torchvision_or_our_readers_know(name):
    found = CARDS[name]
    assert re.search(r"\b(19|20)\d\d\b", found.citation) or found.source == "bundled"
    if found.source.startswith("torchvision:"):
        kind, _, variant = found.source.removeprefix("torchvision:").partition("/")
        theirs = getattr(torchvision.datasets, kind)
        if found.task == "detection":
            assert kind in READERS and variant in YEARS
        else:
            assert [{"all": "train"}.get(split, split) for split in SETS[kind].splits] == list(found.splits)
            listed = getattr(theirs, "classes", None)
            assert listed is None or list(listed) == found.names
    if found.source == "folder":
        assert found.format in named(found.kind)
    if found.score:
        value = next(iter(found.score.values()))
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        assert any(f"{name}, seeds" in line and str(value) in line for line in text.splitlines())


def test_coco_has_the_names_that_torchvisions_detectors_have():
    categories = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    assert CARDS["coco-2017"].names == [name for name in categories if name not in ("__background__", "N/A")]


@pytest.mark.parametrize("name", BUNDLED)
def test_what_comes_along_has_the_stated_numbers(name):
    data = open_data(name)
    assert {split: len(images) for split, images in data.splits().items()} == CARDS[name].splits
    assert list(data.classes) == CARDS[name].names


def test_the_table_says_what_the_cards_say():
    lines = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("|")}
    assert {*rows} - {"Name", "---", "|---|---|---|---|---|---|---|"} >= {*CARDS}
    how = {"bundled": "comes with vitral", "folder": "download it yourself"}
    for name, found in CARDS.items():
        counts = " / ".join(f"{found.splits[s]:,}" if s in found.splits else "-" for s in ("train", "val", "test"))
        cells = (name, found.task, counts, f"{found.classes:,}", found.license)
        assert rows[name] == (
            f"| {' | '.join(cells)} | {how.get(found.source, f'`{found.source}`')} | `{found.command}` |"
        )


# Each in the form that torchvision's class or our reader takes, below `root`


def photo(path, size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(root, found, _):
    raw = root / found.source.partition(":")[2] / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 30), ("t10k", 10)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(n, dtype=np.uint8) % 10))


def cifar(root, found, monkeypatch):
    kind = getattr(torchvision.datasets, found.source.partition(":")[2])
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_, **__: True)
    base, key = root / kind.base_folder, kind.meta["key"]
    base.mkdir(parents=True)
    for (file, _), n in [(each, 2 * found.classes) for each in (*kind.train_list, *kind.test_list)]:
        labels = [i % found.classes for i in range(n)]
        content = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), key.replace("_names", "s"): labels}
        content.setdefault("labels" if found.classes == 10 else "fine_labels", labels)
        (base / file).write_bytes(pickle.dumps(content))
    listed = found.names or [f"class {k:02}" for k in range(found.classes)]
    (base / kind.meta["filename"]).write_bytes(pickle.dumps({key: listed}))


def svhn(root, found, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    root.mkdir(parents=True)
    for split in found.splits:
        # The files call the digit 0 ten.
        images, labels = rng.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8), np.arange(20)[:, None] % 10 + 1
        scipy.io.savemat(root / f"{split}_32x32.mat", {"X": images, "y": labels.astype(np.uint8)})


def pets(root, found, _):
    base = root / "oxford-iiit-pet"
    (base / "annotations/trimaps").mkdir(parents=True)
    for split in ("trainval", "test"):
        lines = []
        for k in range(found.classes):
            for i in range(2):
                name = f"breed_{k:02}_{split}{i}"
                lines.append(f"{name.rsplit('_', 1)[0]}_{split}{i} {k + 1} 1 1")
                photo(base / "images" / f"{name}.jpg")
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")


def flowers(root, found, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    base, n = root / "flowers-102", 3 * found.classes
    for i in range(1, n + 1):
        photo(base / "jpg" / f"image_{i:05}.jpg")
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.arange(n) % found.classes + 1})
    numbers = np.arange(1, n + 1).reshape(3, -1)
    scipy.io.savemat(base / "setid.mat", dict(zip(("trnid", "valid", "tstid"), numbers, strict=True)))


def food(root, found, _):
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for split in found.splits:
        files = {f"dish_{k:03}": [f"dish_{k:03}/{split}{i}" for i in range(2)] for k in range(found.classes)}
        for file in (file for both in files.values() for file in both):
            photo(base / "images" / f"{file}.jpg")
        (base / "meta" / f"{split}.json").write_text(json.dumps(files))


def eurosat(root, found, _):
    for name in found.names:
        for i in range(2):
            photo(root / "eurosat/2750" / name / f"{name}_{i}.jpg")


def imagenette(root, found, _):
    for split in found.splits:
        for wnid in torchvision.datasets.Imagenette._WNID_TO_CLASS:
            photo(root / "imagenette2" / split / wnid / f"{split}.JPEG")


def imagenet(root, found, _):
    for split in found.splits:
        for wnid in ("n01440764", "n01443537", "n15075141"):
            photo(Path(found.name) / split / wnid / f"{split}.JPEG")


def coco_2017(root, found, _):
    parts = {
        split: [Picture(f"{k:012}.jpg", (40, 30), [(1, 1, 9, 9, k)]) for k in range(len(found.names))]
        for split in found.splits
    }
    base = Path(found.name)
    (base / "annotations").mkdir(parents=True)
    for split, pictures in parts.items():
        images, annotations = [], []
        for k, picture in enumerate(pictures):
            photo(base / f"{split}2017" / picture.name, picture.size)
            images.append({"id": k, "file_name": picture.name, "width": 40, "height": 30})
            annotations.append({"id": k, "image_id": k, "category_id": k + 1, "bbox": [1, 1, 8, 8], "iscrowd": 0})
        categories = [{"id": k, "name": name} for k, name in enumerate(found.names, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (base / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def voc_of(root, found, _):
    year = found.name.removeprefix("voc-")
    boxes = [(1, 1, 9, 9, name) for name in found.names]
    voc(
        root / f"VOCdevkit/VOC{year}",
        {split: [Picture(f"{split}{i}.jpg", (40, 30), boxes) for i in range(2)] for split in found.splits},
    )


STAND_INS = {
    "mnist": mnist,
    "fashion-mnist": mnist,
    "cifar10": cifar,
    "cifar100": cifar,
    "svhn": svhn,
    "oxford-iiit-pet": pets,
    "flowers102": flowers,
    "food101": food,
    "eurosat": eurosat,
    "imagenette": imagenette,
    "imagenet-1k": imagenet,
    "coco-2017": coco_2017,
    "voc-2007": voc_of,
    "voc-2012": voc_of,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, and a cache of our own in which nothing can be downloaded."""
    monkeypatch.setenv("VITRAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def offline(*_, **__):
        raise OSError("no network")

    for module in (
        "mnist",
        "cifar",
        "svhn",
        "oxford_iiit_pet",
        "food101",
        "flowers102",
        "eurosat",
        "imagenette",
        "voc",
    ):
        for name in ("download_url", "download_and_extract_archive"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.{name}", offline, raising=False)
    return tmp_path / "cache" / "torchvision"


@pytest.mark.parametrize("name", [name for name in CARDS if name not in BUNDLED])
def test_each_set_opens_by_its_name(here, monkeypatch, name):
    found = CARDS[name]
    STAND_INS[name](here, found, monkeypatch)
    data = open_data(name, seed=None)
    assert isinstance(data, DetectionData if found.task == "detection" else Data)
    assert list(data.splits()) == list(found.splits)
    if name != "imagenet-1k":  # no need for a thousand folders
        assert len(data.classes) == found.classes
    if found.names:
        assert list(data.classes) == found.names
    assert data.train.image(0).ndim == 3 and data.train.counts().min() > 0
    # The record does not need the card, and the name means the same place.
    assert not any("has changed" in note for note in reopen(data.record, name, kind=found.kind).notes)
    assert data.record["source"] == (str(Path(name).absolute()) if found.source == "folder" else found.source)


def test_a_folder_of_that_name_is_read_with_a_note(here, write_images):
    write_images(Path("cifar10"), {"a": 4, "b": 4})
    data = open_data("cifar10")
    assert data.classes == ("a", "b")
    assert data.notes[0] == "cifar10: the folder here is read, not torchvision:CIFAR10."


def test_what_is_not_here_is_told(here):
    with pytest.raises(UserError, match=r"imagenet-1k: must be downloaded by hand \(https.*train/WNID/\*\.JPEG"):
        open_data("imagenet-1k")
    with pytest.raises(UserError, match=r"voc-2007: its images have boxes, not labels.*vitral train detect"):
        open_data("voc-2007", kind="labels")
    with pytest.raises(UserError, match=r"digits: its images have labels, not boxes"):
        open_data("digits", kind="boxes")
    with pytest.raises(UserError, match='Did you mean "cifar10"'):
        open_data("cifar-10")
    with pytest.raises(UserError, match=r"torchvision:MNIST: is not in .*could not be downloaded"):
        open_data("mnist")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name: other", r"name is 'other', but the file is called set\.yaml"),
        ("classes: 3", "3 classes and 2 names"),
        ("names: [a, a]", "have one twice"),
        ("licence: MIT", r"no field 'licence'\. Did you mean \"license\""),
        ("task: segmentation", "task cannot be 'segmentation'"),
        ("splits: {train: 0}", "splits cannot be"),
        ("splits: {test: 5}", "splits cannot be"),
        ("source: ftp://x", "source cannot be"),
        ("source: folder", "layout and format go with the source folder"),
        ("score: {top1: high}", "score cannot be"),
        ("citation: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: [", "while parsing"),
        (None, r"Missing fields: .*license"),
    ],
)
def test_a_card_that_is_not_valid_is_named(tmp_path, change, message):
    path = tmp_path / "set.yaml"
    valid = {
        "name": "set", "title": "T", "task": "classification", "source": "torchvision:X", "splits": "{train: 5}",
        "classes": "2", "names": "[a, b]", "license": "MIT", "citation": "C", "command": "vitral train folder",
    }  # fmt: skip
    path.write_text("\n".join(f"{key}: {value}" for key, value in valid.items()))
    assert read_card(path).kind == "labels"
    if change is None:
        valid = {"name": "set"}
    else:
        key, _, value = change.partition(": ")
        valid[key] = value
    path.write_text("\n".join(f"{key}: {value}" for key, value in valid.items()))
    with pytest.raises(UserError, match=message) as told:
        read_card(path)
    assert str(told.value).startswith(f"{path}: ")


def test_no_card_for_what_is_no_name():
    assert card("../digits/x") is None and card("Cifar10") is None and card("README") is None


def test_the_list(capsys):
    with pytest.raises(SystemExit) as done:
        main(["data", "list"])
    assert not done.value.code
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "task", "train", "val", "test", "classes", "source", "license"]
    assert [line.split()[0] for line in lines] == sorted(CARDS)
    with pytest.raises(SystemExit):
        main(["data", "list", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["splits"] for row in listed} == {name: found.splits for name, found in CARDS.items()}
