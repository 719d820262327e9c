"""Checkpoint folders: whole or not at all, nothing trusted, every mismatch named (rows 34, 35, 54, 55)."""

import json
import os
import pickle
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

import vit.runs.checkpoint
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import create
from vit.pretrained.transfer import start_from
from vit.runs.checkpoint import (
    CONFIG,
    SUMS,
    TRAINER,
    WEIGHTS,
    find_checkpoint,
    load_config,
    load_model,
    load_trainer,
    save_checkpoint,
    set_config,
)
from vit.runs.retention import newest_intact, save_last
from vit.runs.tensors import load_tensors


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "mlp": 16, "depth": 1}
    return create("vit_nano8_conv", num_classes=3, image_size=16, registers=1, **sizes).eval()


def config_of(model):
    return {
        "task": "classification",
        "model": model.config.to_dict(),
        "classes": ["a", "b", "ß"],
        "preprocess": Preprocess((16, 16)).to_dict(),
    }


@pytest.fixture
def folder(tmp_path, model):
    place = tmp_path / "checkpoints" / "best"
    save_checkpoint(place, model.state_dict(), config_of(model), {"step": 7, "model": {"w": torch.ones(2)}})
    return place


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@torch.no_grad()
def test_round_trip(folder, model):
    loaded, config = load_model(folder)
    assert config == json.loads(json.dumps({"format": 1, **config_of(model)})) and not loaded.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(images), model(images))
    trainer = load_trainer(folder)
    assert trainer["step"] == 7 and torch.equal(trainer["model"]["w"], torch.ones(2))
    assert sorted(os.listdir(folder.parent)) == ["best"]


def test_a_run_folder_means_its_best_checkpoint(folder, tmp_path):
    assert find_checkpoint(tmp_path) == folder == find_checkpoint(str(folder))
    os.rename(folder, folder.with_name("last"))
    assert find_checkpoint(tmp_path) == folder.with_name("last")


def test_a_checkpoint_without_trainer_can_be_used_but_not_resumed(tmp_path, model):
    save_checkpoint(tmp_path / "x", model.state_dict(), config_of(model))
    load_model(tmp_path / "x")
    with pytest.raises(UserError, match=r"holds no trainer\.pt\. It cannot be resumed, but it can be used"):
        load_trainer(tmp_path / "x")


def test_set_config_changes_one_entry(folder):
    before = load_config(folder)
    set_config(folder, temperature=1.5)
    assert load_config(folder) == {**before, "temperature": 1.5}
    assert sorted(os.listdir(folder)) == [SUMS, CONFIG, WEIGHTS, TRAINER]


STEPS = ["save_file", "json.dumps", "torch.save", "_sum", "_flush", "os.rename", "second rename", "shutil.rmtree"]


class Killed(BaseException):
    """Stands for SIGKILL: no except clause may run."""


def die_at(monkeypatch, step):
    def on_call(owner, name, number=1):
        original, calls = getattr(owner, name), 0

        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == number:
                raise Killed
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    module = vit.runs.checkpoint
    match step:
        case "second rename":
            on_call(os, "rename", 2)
        case "shutil.rmtree":
            on_call(shutil, "rmtree", 3)  # the last of three: the previous checkpoint is being removed
        case "json.dumps" | "torch.save" | "os.rename":
            owner, name = step.split(".")
            on_call({"json": json, "torch": torch, "os": os}[owner], name)
        case _:
            on_call(module, step)


@pytest.mark.parametrize("step", STEPS)
def test_row_34_killed_while_saving(folder, tmp_path, model, monkeypatch, step):
    """At every step the previous checkpoint, or the new one, loads whole; and the next save puts all in order."""
    new = {k: v + 1 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    with monkeypatch.context() as patch:
        die_at(patch, step)
        with pytest.raises(Killed):
            save_checkpoint(folder, new, config_of(model), {"step": 8})
    found = find_checkpoint(tmp_path)
    weights = load_model(tmp_path)[0].state_dict()["head.bias"]
    old = model.state_dict()["head.bias"]
    is_new = step == "shutil.rmtree"
    assert torch.equal(weights, old + 1 if is_new else old)
    assert load_trainer(found)["step"] == (8 if is_new else 7)
    assert found == (folder.with_name("best.old") if step == "second rename" else folder)

    save_checkpoint(folder, new, config_of(model), {"step": 9})
    assert sorted(os.listdir(folder.parent)) == ["best"] and load_trainer(folder)["step"] == 9


@pytest.mark.parametrize("step", ["save_file", "torch.save", "_flush", "os.rename", "second rename"])
def test_row_35_a_full_disk_leaves_the_previous_one(folder, model, monkeypatch, step):
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(f"{__name__}.Killed", OSError(28, "No space left on device"))
        die_at(patch, step)
        with pytest.raises(UserError, match=r"best: the checkpoint could not be written .*No space left on device"):
            save_checkpoint(folder, model.state_dict(), config_of(model), {"step": 8})
    assert contents(find_checkpoint(folder)) == before
    assert [name for name in os.listdir(folder.parent) if name.endswith(".new")] == []


def test_row_55_a_truncated_file(folder):
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is not a complete safetensors file"):
        load_model(folder)


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)


def test_row_36_a_flipped_bit_is_found_and_sha256sum_agrees(folder):
    run = ["sha256sum", "--quiet", "-c", SUMS]
    assert subprocess.run(run, cwd=folder, capture_output=True).returncode == 0
    flip(folder / WEIGHTS, -10)
    with pytest.raises(UserError, match=r"best/model\.safetensors is damaged: it does not match SHA256SUMS"):
        load_model(folder)
    assert subprocess.run(run, cwd=folder, capture_output=True).returncode == 1
    (folder / SUMS).unlink()  # a checkpoint of before
    load_model(folder)


def config_at(model, step):
    return {**config_of(model), "step": step}


@pytest.fixture
def several(tmp_path, model):
    """checkpoints/{step-10,step-20,last}, of the steps 10, 20 and 30."""
    place = tmp_path / "checkpoints"
    for step in (10, 20, 30):
        save_last(place, model.state_dict(), config_at(model, step), {"progress": {"step": step}}, keep=3)
    return place


def test_the_newest_few_are_kept(several, model):
    assert sorted(os.listdir(several)) == ["last", "step-10", "step-20"]
    for step in (40, 40):
        save_last(several, model.state_dict(), config_at(model, step), {"progress": {"step": step}}, keep=2)
        assert sorted(os.listdir(several)) == ["last", "step-30"]
    save_last(several, model.state_dict(), config_at(model, 50), {"progress": {"step": 50}}, keep=1)
    assert sorted(os.listdir(several)) == ["last"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no file", "two"])
def test_row_36_resuming_falls_back_to_the_newest_intact_one_and_says_so(several, damage):
    trainer, told = several / "last" / TRAINER, []
    match damage:
        case "flipped" | "two":
            flip(trainer, len(trainer.read_bytes()) // 2)
        case "cut":
            trainer.write_bytes(trainer.read_bytes()[:-50])
        case "empty":
            trainer.write_bytes(b"")
        case "no file":
            trainer.unlink()
    if damage == "two":
        flip(several / "step-20" / WEIGHTS, -1)
    expected = 10 if damage == "two" else 20
    folder, state = newest_intact(several, told.append)
    assert folder.name == f"step-{expected}" and state["progress"]["step"] == expected
    assert len(told) == 1 and "last" in told[0] and f"Resuming from step-{expected}, which is intact." in told[0]
    assert "last.damaged" in os.listdir(several) and "last" not in os.listdir(several)
    assert newest_intact(several, told.append)[0] == folder and len(told) == 1  # said once


def test_row_36_no_checkpoint_is_whole(several):
    for folder in several.iterdir():
        flip(folder / TRAINER, 0)
    with pytest.raises(
        UserError, match=r"Every checkpoint of this run is damaged: .*last.*step-20.*step-10.*Start the run again"
    ):
        newest_intact(several, print)


@pytest.mark.parametrize("step", [*STEPS[:-1], "shutil.rmtree"])
def test_row_34_killed_while_several_are_kept(several, model, monkeypatch, step):
    """Whenever it happens there is a whole one to go on from, never an older one than before, and the next save puts
    all in order."""
    with monkeypatch.context() as patch:
        die_at(patch, step)
        with pytest.raises(Killed):
            save_last(several, model.state_dict(), config_at(model, 40), {"progress": {"step": 40}}, keep=3)
    told = []
    assert newest_intact(several, told.append)[1]["progress"]["step"] in (30, 40) and told == []
    load_model(several.parent)
    save_last(several, model.state_dict(), config_at(model, 50), {"progress": {"step": 50}}, keep=2)
    assert newest_intact(several, told.append)[1]["progress"]["step"] == 50 and told == []
    assert [name for name in os.listdir(several) if name.endswith((".new", ".old"))] == []


def test_row_35_a_disk_that_is_really_full(tmp_path, model):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        save_last(place / "run", model.state_dict(), config_at(model, 1), {"progress": {"step": 1}}, keep=2)
        state = {"progress": {"step": 2}, "much": torch.zeros(200_000)}
        with pytest.raises(UserError, match=r"last: the checkpoint could not be written .*previous one is kept"):
            save_last(place / "run", model.state_dict(), config_at(model, 2), state, keep=2)
        assert os.listdir(place / "run") == ["last"]
        assert newest_intact(place / "run", print)[1]["progress"]["step"] == 1
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("start", [b"\xff" * 8, b"\x00" * 8, b"", (50).to_bytes(8, "little") + b"{" * 50])
def test_row_55_a_damaged_header(folder, start):
    (folder / WEIGHTS).write_bytes(start + (folder / WEIGHTS).read_bytes()[len(start) :] if start else b"")
    with pytest.raises(UserError, match=r"model\.safetensors is not a complete safetensors file"):
        load_model(folder)


def test_row_55_every_mismatch_is_named(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["head.weight"] = torch.zeros(5, 16)
    tensors["extra.weight"] = tensors.pop("encoder.norm.bias")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError) as caught:
        load_model(folder)
    told = str(caught.value)
    assert str(folder / WEIGHTS) in told
    assert "missing: encoder.norm.bias" in told and "not in the model: extra.weight" in told
    assert "wrong shape: head.weight is [5, 16], the model has [3, 16]" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read as JSON"),
        ("\udcff", "cannot be read as JSON"),
        ("[]", "does not describe a model"),
        ('{"format": 1}', "does not describe a model"),
        ('{"format": 1, "model": "big"}', "does not describe a model"),
        ('{"format": 99, "model": {}}', "has format 99; this version of vitral reads format 1"),
        ('{"format": 1, "model": {}}', "task is missing"),
        ('{"format": 1, "model": {}, "task": "classification", "classes": []}', "preprocess is missing"),
    ],
)
def test_a_damaged_config(folder, text, told):
    (folder / CONFIG).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=told):
        load_model(folder)


WRONG = [
    ("task", 5, "task is 5, not a string"),
    ("classes", 5, "classes is 5, not a list, each item a string"),
    ("classes", [1, 2, 3], r"classes is \[1, 2, 3\], not a list, each item a string"),
    ("classes", ["a", "b"], "2 classes are named, the model has 3"),
    ("multilabel", "no", "multilabel is 'no', not true or false"),
    ("temperature", "hot", "temperature is 'hot', not a number or null"),
    ("augment", {"flip": "yes"}, "augment is {'flip': 'yes'}, not"),
    ("data", "photos", "data is 'photos', not"),
    ("data", {"seed": 0, "splits": {}}, "data.source is None, not a string"),
    ("data", {"source": "photos", "seed": "0", "splits": {}}, "data.seed is '0', not a whole number"),
    ("data", {"source": "photos", "seed": 0, "splits": [3]}, r"data.splits is \[3\], not"),
    ("preprocess", [1], r"preprocess is \[1\], not"),
    ("preprocess", {}, "preprocess needs the field size"),
    ("preprocess", {"size": "big"}, "preprocess.size is 'big', not a list of 2: a whole number, a whole number"),
    ("preprocess", {"size": [16.5, 16]}, r"preprocess.size is \[16.5, 16\], not a list of 2"),
    ("preprocess", {"size": [16, 16], "mean": ["a", 0, 0]}, "preprocess.mean is .* not a list, each item a number"),
    ("preprocess", {"size": [16, 16], "resize": "stretch"}, "preprocess.resize is 'stretch', not one of 'crop'"),
    ("model.num_classes", "3", "model.num_classes is '3', not a whole number"),
    ("model.num_classes", True, "model.num_classes is True, not a whole number"),
    ("model.pool", "max", "model.pool is 'max', not one of 'class', 'mean'"),
    ("model.encoder", [], r"model.encoder is \[\], not a table"),
    ("model.encoder.depth", 1.0, "model.encoder.depth is 1.0, not a whole number"),
    ("model.encoder.image_size", 16, "model.encoder.image_size is 16, not a list of 2"),
    ("model.encoder.image_size", [16, 16, 16], r"model.encoder.image_size is \[16, 16, 16\], not a list of 2"),
    ("model.encoder.stem", "convolution", "model.encoder.stem is 'convolution', not one of 'linear', 'conv'"),
    ("model.encoder.dropout", "0.1", "model.encoder.dropout is '0.1', not a number"),
    ("model.encoder.layer_scale", "none", "model.encoder.layer_scale is 'none', not a number or null"),
    ("model.encoder.mixture", 8, "model.encoder has no field 'mixture'"),
    ("model.encoder.patch_sise", 8, "no field 'patch_sise'. Did you mean \"patch_size\""),
    ("model.encoder.heads", 3, "width 16 is not a multiple of heads 3"),
]


@pytest.mark.parametrize(("entry", "value", "told"), WRONG, ids=[f"{entry}={value}" for entry, value, _ in WRONG])
def test_a_config_with_a_wrong_value_is_told_by_file_and_entry(folder, entry, value, told):
    content = json.loads((folder / CONFIG).read_text())
    *above, last = entry.split(".")
    place = content
    for key in above:
        place = place[key]
    place[last] = value
    (folder / CONFIG).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"config\.json: .*{told}"):
        load_model(folder)


def test_a_checkpoint_of_an_unknown_task(folder):
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**content, "task": "segmentation"}))
    with pytest.raises(UserError, match=r"is of the task segmentation; .*classification is needed here"):
        load_model(folder)
    with pytest.raises(UserError, match=r"task 'segmentation'; .* supports classification, detection"):
        vit.load(folder)


def test_a_damaged_trainer(folder):
    whole = (folder / TRAINER).read_bytes()
    for content in (whole[:100], b"nonsense", b""):
        (folder / TRAINER).write_bytes(content)
        with pytest.raises(UserError, match=r"trainer\.pt cannot be read: .*Resume from another checkpoint"):
            load_trainer(folder)


def test_places_without_a_checkpoint(folder, tmp_path):
    with pytest.raises(UserError, match=r'current folder: .*Did you mean "checkpoints"'):
        find_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(UserError, match=r"is a file; a checkpoint is a folder"):
        find_checkpoint(folder / WEIGHTS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no checkpoint: model\.safetensors and config\.json are missing"):
        find_checkpoint(tmp_path / "empty")
    for name in (WEIGHTS, CONFIG):
        half = shutil.copytree(folder, tmp_path / f"without {name}" / "checkpoints" / "last")
        (half / name).unlink()
        with pytest.raises(UserError, match=rf"holds no checkpoint: .*checkpoints/last has no {name}\. Give a run"):
            find_checkpoint(half.parent.parent)


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_row_54_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, name, zipped):
    mark, file = tmp_path / "mark", tmp_path / name
    content = {"w": torch.ones(1), "x": Malicious(str(mark))}
    torch.save(content, file) if zipped else file.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=r"pickle that would run code. It was refused.*--trust-pickle"):
        load_tensors(file)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:unclosed file")
def test_row_54_trust_pickle_overrides(tmp_path):
    mark, file = tmp_path / "mark", tmp_path / "weights.pth"
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Malicious(str(mark))}, file)
    assert torch.equal(load_tensors(file, trust_pickle=True)["w"], torch.ones(1))
    assert mark.exists()


def test_row_54_a_malicious_trainer_is_refused(folder, tmp_path):
    mark = tmp_path / "mark"
    torch.save({"progress": Malicious(str(mark))}, folder / TRAINER)
    with pytest.raises(UserError, match=r"trainer\.pt cannot be read"):
        load_trainer(folder)
    assert not mark.exists()


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "model_ema", None])
def test_tensors_of_other_peoples_files(tmp_path, key):
    tensors = {"w": torch.arange(3.0)}
    torch.save({key: tensors, "epoch": 3} if key else tensors, tmp_path / "x.pth")
    assert torch.equal(load_tensors(tmp_path / "x.pth")["w"], tensors["w"])


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04 cut", b"hello, world", b"nonsense"])
def test_files_that_hold_no_tensors(tmp_path, content):
    file = tmp_path / "x.pth"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pth is not a complete PyTorch file"):
        load_tensors(file)
    torch.save([1, 2], file)
    with pytest.raises(UserError, match="does not hold a dictionary of tensors"):
        load_tensors(file)
    with pytest.raises(UserError, match=r"y\.pth does not exist"):
        load_tensors(tmp_path / "y.pth")


@torch.no_grad()
def test_starting_from_weights_keeps_the_head_of_the_same_classes(folder, model):
    images = torch.randn(2, 3, 16, 16)
    same, _, notes = start_from(str(folder), ("a", "b", "ß"))
    assert notes == [] and torch.equal(same.eval()(images), model(images))


def test_row_5_other_classes_get_a_new_head(folder, model):
    other, _, notes = start_from(str(folder), ("b", "a", "ß"), drop_path=0.1)
    assert notes == ["New head for 3 classes (the checkpoint has 3)."]
    assert not torch.equal(other.head.weight, model.head.weight)
    assert torch.equal(other.encoder.norm.weight, model.encoder.norm.weight)
    assert other.config.encoder.drop_path == 0.1
    more, _, notes = start_from(str(folder), ("b", "a", "c", "d"), image_size=(24, 16))
    assert notes == [
        "Positions are resized from 16x16 to 24x16 pixels.",
        "New head for 4 classes (the checkpoint has 3).",
    ]
    assert more(torch.randn(2, 3, 24, 16)).shape == (2, 4)
