"""What a recipe chooses from the data, how it is kept, and which run folder it may use."""

import dataclasses
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vit.errors import UserError
from vit.runs import folder as runs
from vit.runs.checkpoint import save_checkpoint
from vit.runs.folder import differences, open_run, read_recipe, write_recipe
from vit.tasks.classification.build import build_model, build_task, by_muon
from vit.tasks.classification.recipe import RECIPES, Recipe
from vit.tasks.classification.settle import settle
from vit.tasks.detection.build import begin as begin_detector
from vit.tasks.detection.recipe import RECIPES as DETECTION_RECIPES
from vit.tasks.detection.settle import settle as settle_detection
from vit.tasks.facts import Facts
from vit.tasks.run import Built
from vit.training.parts import build_optimizers, schedule

GRAY = {"gray": True, "mean": (0.1, 0.1, 0.1), "std": (0.3, 0.3, 0.3)}
COLOR = {"gray": False, "mean": (0.5, 0.4, 0.4), "std": (0.2, 0.2, 0.2)}
FACTS = {
    "digits": Facts(3500, 10, (28, 28), **GRAY),
    "a few photos": Facts(60, 3, (480, 640), **COLOR),
    "photos": Facts(8000, 100, (480, 640), **COLOR),
    "many photos": Facts(1_300_000, 1000, (480, 640), **COLOR),
    "small color": Facts(50_000, 10, (32, 32), **COLOR),
    "scans": Facts(5000, 16, (1000, 800), **GRAY),
    "one image": Facts(1, 1, (1, 1), **COLOR),
}
FOLDER = Recipe(recipe="folder", data="photos")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ("digits", {"augment": "glyph", "image_size": 32, "mixup": 0.2, "cutmix": 0.0, "resize": "squash"}),
        ("a few photos", {"augment": "light", "image_size": 224, "resize": "crop", "batch_size": 64}),
        ("many photos", {"model": "vit_b16", "augment": "deit3", "drop_path": 0.1, "batch_size": 256, "cutmix": 1.0}),
        ("small color", {"image_size": 32, "augment": "deit3"}),
        ("scans", {"augment": "light", "image_size": 224, "resize": "squash"}),
    ],
)
def test_choices(facts, expected):
    recipe, told = settle(FOLDER, FACTS[facts])
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert f"{FACTS[facts].images:,} training images" in told[0]
    assert recipe.model in told[1] and f"epochs {recipe.epochs}" in told[1]


def test_few_images_from_scratch_are_told_of_public_weights():
    few, many = FACTS["a few photos"], FACTS["photos"]
    told = settle(FOLDER, few)[1]
    assert told[-1] == "  vitral train finetune --data photos --weights hf:facebook/dinov2-small"
    for recipe, facts in ((FOLDER, many), (replace(FOLDER, weights="RUN"), few), (RECIPES["digits"][1], few)):
        assert not any("ublic weights" in line for line in settle(recipe, facts)[1])


def test_less_data_is_seen_more_often_by_a_smaller_model():
    few, many = (settle(FOLDER, replace(FACTS["photos"], images=n))[0] for n in (500, 300_000))
    assert few.epochs > many.epochs
    assert "_conv" in few.model and "nano" in few.model
    assert few.ema < many.ema or few.epochs * 500 / few.batch_size > 2000


@pytest.mark.parametrize("facts", FACTS)
@pytest.mark.parametrize("name", RECIPES)
def test_everything_is_settled_and_can_be_built(name, facts):
    """Also with the strangest data: each choice is one that the parts of a run accept."""
    scratch = name not in ("finetune", "probe")
    asked = replace(RECIPES[name][1], weights=None if scratch else "RUN")
    recipe, _ = settle(asked, FACTS[facts])
    allowed = {
        "out",
        "weights",
        "clip",
        "patience",
        "data",
        "freeze_blocks",
        "lora_rank",
        "head_epochs",
        "minutes",
        "format",
        "save_every",
    }
    allowed |= set() if scratch else {"model", "image_size"}
    left_open = {f.name for f in dataclasses.fields(recipe) if getattr(recipe, f.name) is None}
    assert left_open <= allowed
    again, told = settle(recipe, FACTS[facts])
    assert again == recipe and not any("chosen" in line for line in told)
    steps = recipe.epochs * max(1, FACTS[facts].images // recipe.batch_size)
    loop = schedule(recipe, steps, torch.device("cpu"))
    assert loop.steps == loop.steps_per_epoch * recipe.epochs and 0 <= loop.warmup < max(2, loop.steps)
    assert 0 <= recipe.ema < 1
    if scratch:
        with torch.device("meta"):
            model, preprocess, notes = build_model(recipe, ["x"] * FACTS[facts].classes, FACTS[facts])
        assert notes == [] and preprocess.size == model.config.encoder.image_size


@pytest.mark.parametrize(
    ("images", "options", "expected"),
    [
        (80, {}, {"batch_size": 16, "epochs": 40, "lr": 3e-4, "layer_decay": 0.75}),
        (1000, {}, {"batch_size": 16, "epochs": 20}),
        (8000, {}, {"batch_size": 64, "epochs": 20}),
        (5, {}, {"batch_size": 16, "epochs": 200}),
        (80, {"batch_size": 40}, {"epochs": 100}),
        (80, {"lora_rank": 8}, {"batch_size": 16, "epochs": 40, "lr": 1e-3, "layer_decay": 1.0}),
    ],
    ids=str,
)
def test_finetuning_on_few_images_still_takes_200_steps(images, options, expected):
    asked = replace(RECIPES["finetune"][1], data="photos", weights="RUN", **options)
    recipe, _ = settle(asked, replace(FACTS["photos"], images=images))
    assert {name: getattr(recipe, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("model", "side"), [("vit_s14", 28), ("vit_nano8", 32), ("vit_nano4_conv_mean", 32), ("dinov2_s14", 28)]
)
def test_the_chosen_size_is_one_that_the_models_patches_divide(model, side):
    recipe, _ = settle(replace(FOLDER, model=model), FACTS["digits"])
    assert recipe.image_size == side
    with torch.device("meta"):
        build_model(recipe, ["a", "b"], FACTS["digits"])


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (64, 8)])
def test_workers_are_no_more_than_the_cores_that_may_be_used(monkeypatch, cores, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert settle(FOLDER, FACTS["photos"])[0].workers == workers
    assert settle(FOLDER, FACTS["digits"])[0].workers == 0
    asked = DETECTION_RECIPES["detect"][1]
    assert settle_detection(asked, FACTS["photos"], begin_detector(asked))[0].workers == workers


def test_cores_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert settle(FOLDER, FACTS["photos"])[0].workers == 3


def test_what_the_user_says_is_kept():
    asked = replace(FOLDER, model="vit_s16", image_size=160, epochs=7, lr=0.1, mixup=0.0, augment="none", workers=5)
    recipe, _ = settle(asked, FACTS["photos"])
    for name in ("model", "image_size", "epochs", "lr", "mixup", "augment", "workers"):
        assert getattr(recipe, name) == getattr(asked, name)


@pytest.mark.parametrize("name", ["finetune", "probe"])
def test_starting_from_weights_needs_weights(name):
    recipe, _ = settle(RECIPES[name][1], FACTS["digits"])
    with pytest.raises(UserError, match=f"{name} starts from a checkpoint: add --weights RUN"):
        build_model(recipe, ["a"], FACTS["digits"])


def test_options_reach_the_parts():
    asked = replace(
        FOLDER, model="vit_nano8", image_size=16, dropout=0.1, attention_dropout=0.2, drop_path=0.3, layer_scale=0.5,
        label_smoothing=0.05, l1=1e-5, class_weights=True, optimizer="adamw", lr=0.01, weight_decay=0.2,
        epochs=4, warmup=0.5, final_lr=0.1, accumulate=3, clip=None, eval_every=2, patience=9, amp="bf16", seed=11,
    )  # fmt: skip
    recipe, _ = settle(asked, FACTS["digits"])
    model, preprocess, _ = build_model(recipe, ["a", "b"], FACTS["digits"])
    e = model.config.encoder
    assert (e.dropout, e.attention_dropout, e.drop_path, e.layer_scale) == (0.1, 0.2, 0.3, 0.5)
    train = SimpleNamespace(counts=lambda: np.array([30, 10]))
    data = SimpleNamespace(classes=["a", "b"], train=train, multilabel=False)
    loss = build_task(recipe, Built(model, preprocess, "vit_nano8"), data).loss
    assert (loss.label_smoothing, loss.l1) == (0.05, 1e-5)
    torch.testing.assert_close(loss.class_weights, torch.tensor([2 / 3, 2.0]))
    groups = [group for o in build_optimizers(recipe, model, by_muon) for group in o.param_groups]
    assert {group["lr"] for group in groups} == {0.01} and {group["weight_decay"] for group in groups} == {0.0, 0.2}
    loop = schedule(recipe, 40, torch.device("cpu"))
    assert (loop.warmup, loop.final_lr, loop.accumulate, loop.clip) == (5, 0.1, 3, None)
    assert (loop.steps_per_epoch, loop.eval_every, loop.patience, loop.seed) == (10, 2, 9, 11)
    assert loop.amp is torch.bfloat16


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": -1}, {"lr": -1e-3}, {"lr": float("nan")}, {"warmup": -1.0}, {"patience": 0},
        {"lora_rank": 0}, {"lora_alpha": 0.0}, {"lora_alpha": float("inf")}, {"freeze_blocks": -1}, {"head_epochs": 0},
        {"label_smoothing": 2.0}, {"clip": 0.0}, {"clip": -1.0}, {"ema": 1.0}, {"final_lr": -3.0}, {"dropout": 1.5},
        {"layer_decay": 0.0}, {"layer_decay": 1.5}, {"layer_scale": -1.0}, {"image_size": 0}, {"seed": 10**30},
        {"erase": 2.0}, {"drop_path": 1.0}, {"workers": -1}, {"minutes": 0.0}, {"minutes": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_values(wrong):
    name = next(iter(wrong))
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} must"):
        replace(FOLDER, **wrong)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"freeze": True, "freeze_blocks": 0}, "train only the head. Use --freeze-blocks with finetune"),
        ({"freeze": True, "lora_rank": 4}, "train only the head. Use --lora-rank with finetune"),
        ({"freeze": True, "head_epochs": 2}, "train only the head. Use --head-epochs with finetune"),
        ({"lora_rank": 4, "optimizer": "muon"}, "--optimizer muon trains the blocks' matrices, .* Use adamw"),
        ({"epochs": 5, "head_epochs": 5}, "--head-epochs 5 leaves none of --epochs 5 for the rest. .* use --freeze"),
        ({"freeze": True, "patch_dropout": 0.5}, "--patch-dropout affects only the training of the encoder"),
        ({"freeze": True, "skip_dropped": True}, "--skip-dropped affects only the training of the encoder"),
        ({"skip_dropped": True, "drop_path": 0.0}, "--skip-dropped has no effect, since --drop-path is 0"),
        ({"skip_dropped": True, "compile": True}, "--skip-dropped changes the batch size of blocks"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(wrong, told):
    with pytest.raises(UserError, match=told):
        replace(FOLDER, **wrong)
    for name in wrong:
        replace(FOLDER, **{key: value for key, value in wrong.items() if key != name})


def test_head_epochs_within_the_chosen_length():
    few = settle(FOLDER, FACTS["many photos"])[0].epochs
    with pytest.raises(UserError, match=f"leaves none of --epochs {few}"):
        settle(replace(FOLDER, head_epochs=few), FACTS["many photos"])


def test_lora_is_trained_by_adamw():
    assert settle(replace(FOLDER, weights="RUN", lora_rank=4), FACTS["photos"])[0].optimizer == "adamw"
    assert settle(replace(FOLDER, weights="RUN"), FACTS["photos"])[0].optimizer == "muon"


@pytest.mark.parametrize("name", RECIPES)
def test_yaml_round_trip(tmp_path, name):
    recipe, _ = settle(replace(RECIPES[name][1], data="Fotos/größer", lr=1e-5, l1=1e-7), FACTS["photos"])
    write_recipe(tmp_path / "run", recipe)
    assert read_recipe(tmp_path / "run", type(recipe)) == recipe
    assert "Fotos/größer" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["[", "", "- 1", "no_such_option: 1", "epochs: 0", "epochs: many", "lr: 1e-3", "\xff"])
def test_a_damaged_config_yaml(tmp_path, text):
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.yaml is not the recipe of a run: "):
        read_recipe(tmp_path, Recipe)
    with pytest.raises(UserError, match="is not the recipe of a run"):
        read_recipe(tmp_path / "nowhere", Recipe)


def test_differences_name_what_changes_a_result():
    recipe, _ = settle(FOLDER, FACTS["photos"])
    assert differences(recipe, replace(recipe, out="x", resume=True, workers=7, device="cuda")) == []
    assert differences(recipe, replace(recipe, lr=0.5, seed=3)) == [
        f"lr: {recipe.lr} -> 0.5",
        "seed: 0 -> 3",
    ]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(folder, recipe, step=3):
    """A run folder as training leaves it."""
    write_recipe(folder, recipe)
    if step:
        save_checkpoint(folder / "checkpoints" / "last", {"w": torch.ones(1)}, {"model": {}}, {"step": step})


@pytest.fixture
def recipe():
    return settle(FOLDER, FACTS["photos"])[0]


def test_runs_are_numbered(place, recipe):
    for expected in ("folder", "folder-2", "folder-3"):
        folder, resume = open_run(recipe)
        assert folder == runs.ROOT / expected and resume is None and not folder.exists()
        begin(folder, recipe)


def test_a_place_that_cannot_be_written_to(place, recipe):
    (place / "file").touch()
    for out in (place / "file", place / "file" / "run"):
        with pytest.raises(UserError, match=r"file.* cannot be written to \(.*\)\. Choose another --out"):
            write_recipe(out, recipe)


def test_the_data_is_no_run_folder(place, recipe):
    (place / "photos").mkdir()
    with pytest.raises(UserError, match=r"photos holds the data\. Choose another --out"):
        open_run(replace(recipe, data="photos", out=str(place / "x" / ".." / "photos")))


def test_a_run_is_not_overwritten(place, recipe):
    begin(place / "mine", recipe)
    with pytest.raises(UserError, match=r"mine already holds a run. Add --resume .* or choose another --out"):
        open_run(replace(recipe, out=str(place / "mine")))
    (place / "empty").mkdir()
    assert open_run(replace(recipe, out=str(place / "empty"))) == (place / "empty", None)


def test_resume_finds_the_newest_run_of_the_recipe(place, recipe):
    for name, age in (("folder", 30), ("folder-2", 10), ("folder-3", 20), ("digits", 0)):
        begin(runs.ROOT / name, recipe, step=age + 1)
        moment = 1_700_000_000 - age
        os.utime(runs.ROOT / name / "checkpoints", (moment, moment))
    folder, state = open_run(replace(recipe, resume=True))
    assert folder == runs.ROOT / "folder-2" and state == {"step": 11}
    with pytest.raises(UserError, match=r"holds no run of 'probe' to resume\. Name its folder with --out"):
        open_run(replace(recipe, recipe="probe", resume=True))


def test_resume_by_name_and_after_a_crash_between_two_renames(place, recipe):
    begin(place / "mine", recipe)
    again = replace(recipe, out=str(place / "mine"), resume=True, device="cpu")
    assert open_run(again) == (place / "mine", {"step": 3})
    (place / "mine/checkpoints/last").rename(place / "mine/checkpoints/last.old")
    assert open_run(again) == (place / "mine", {"step": 3})


def test_row_42_resume_with_other_options_is_refused(place, recipe):
    begin(place / "mine", recipe)
    with pytest.raises(UserError, match=r"started with other options \(epochs: \d+ -> 3, seed: 0 -> 1\)"):
        open_run(replace(recipe, out=str(place / "mine"), resume=True, epochs=3, seed=1))


def test_a_run_stopped_before_its_first_checkpoint_is_resumed_from_the_start(place, recipe):
    begin(place / "mine", recipe, step=0)
    assert open_run(replace(recipe, out=str(place / "mine"), resume=True)) == (place / "mine", None)
    with pytest.raises(UserError, match=r"nowhere holds no run to resume\. Leave out --resume to start one"):
        open_run(replace(recipe, out=str(place / "nowhere"), resume=True))


def test_less_work_that_was_chosen_to_be_none_is_refused():
    """Fine-tuning on few images chooses a drop_path of 0."""
    with pytest.raises(UserError, match="--skip-dropped has no effect"):
        settle(Recipe(recipe="finetune", data="photos", weights="runs/a", skip_dropped=True), FACTS["digits"])
