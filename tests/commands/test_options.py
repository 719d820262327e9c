"""What a command line means, and that every mistake is told in at most two lines with the right form."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from vit.commands import eval as evaluation
from vit.commands import train
from vit.commands.cli import aliases
from vit.commands.cli.fields import Positional, options_of
from vit.commands.cli.options import parse
from vit.commands.convert import Convert
from vit.commands.data import check, pack, show, split
from vit.commands.data import convert as data_convert
from vit.commands.data import list as data_list
from vit.commands.embed import Embed
from vit.commands.predict import Predict
from vit.errors import UserError
from vit.tasks.classification.recipe import Recipe
from vit.tasks.detection.recipe import Recipe as DetectionRecipe


@dataclass(frozen=True)
class Toy:
    """A toy."""

    source: Annotated[str, Positional("SRC")]
    files: Annotated[tuple[str, ...], Positional("FILE...")]
    to: Literal["a", "b"]
    count: int = 3
    share: float | None = 0.5
    size: int | Literal["auto"] | None = None
    place: Path | None = None
    marks: tuple[str, ...] = ()
    fast_mode: bool = False
    color: bool = True


def toy(*words: str) -> Toy:
    return parse(Toy, words, "toy")


def test_values():
    assert toy("s", "--to", "a") == Toy("s", (), "a")
    given = toy("--to=b", "s", "--count", "-2", "x", "--share", "None", "--size", "auto", "y", "--place", "p/q")
    assert given == Toy("s", ("x", "y"), "b", count=-2, share=None, size="auto", place=Path("p/q"))
    assert toy("s", "--to", "a", "--size", "8").size == 8
    assert toy("s", "--to", "a", "--marks", "1", "--marks=c=.5").marks == ("1", "c=.5")
    assert toy("s", "--to", "a", "--share", "1e-3").share == 1e-3
    assert toy("s", "--to", "a", "--", "--odd").files == ("--odd",)
    assert toy("s", "--to", "a", "-").files == ("-",)
    assert toy("s", "--to", "a", "--count", "1", "--count", "2").count == 2


def test_flags_and_underscores():
    assert toy("s", "--to", "a", "--fast_mode", "--no-color") == Toy("s", (), "a", fast_mode=True, color=False)
    assert not toy("s", "--to", "a", "--fast-mode", "--no-fast-mode").fast_mode


def test_a_base_gives_the_defaults():
    base = Toy("s", (), "b", count=9, fast_mode=True)
    assert parse(Toy, ["--no-fast-mode"], "toy", base=base) == dataclasses.replace(base, fast_mode=False)
    with pytest.raises(UserError, match="has no option --count"):
        parse(Toy, ["--count", "1"], "toy", base=base, hidden=("count",))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--to a", "toy needs SRC."),
        ("s", "toy needs --to."),
        ("s --to", "--to needs a value.\nIt takes a or b; toy --help lists all options."),
        ("s --to --count 3", "--to needs a value."),
        ("s --to c", "--to does not take 'c'.\nIt takes a or b."),
        ("s --to a --count three", "--count does not take 'three'.\nIt takes a whole number."),
        ("s --to a --count 2.5", "--count does not take '2.5'.\nIt takes a whole number."),
        ("s --to a --share x", "--share does not take 'x'.\nIt takes a number or None."),
        ("s --to a --size x", "--size does not take 'x'.\nIt takes a whole number or auto."),
        ("s --to a --fast-mode=1", "--fast-mode takes no value, but '1' follows it.\n--fast-mode turns it on, --no-"),
        ("s --to a --cuont 3", "toy has no option --cuont.\nDid you mean --count? toy --help lists all options."),
        ("s --to a --zzz 3", "toy has no option --zzz.\ntoy --help lists all options."),
        (
            "s --to a --source x",
            "toy has no option --source.\nGive SRC by its place: toy SRC FILE... --to a|b [options]",
        ),
        ("to=a source=s count=3", "toy takes --name value, not name=value.\nDid you mean toy s --to a --count 3?"),
    ],
)
def test_mistakes(words, told):
    with pytest.raises(UserError) as raised:
        toy(*words.split())
    assert str(raised.value).startswith(told) and str(raised.value).count("\n") == 1


CLASSES = {
    "train folder": Recipe, "train detect": DetectionRecipe, "eval": evaluation.Evaluate, "predict": Predict,
    "embed": Embed, "convert": Convert, "data check": check.Check, "data split": split.Split, "data pack": pack.Pack,
    "data convert": data_convert.Convert, "data show": show.Show,
    "data list": data_list.List,
}  # fmt: skip


def unknown(command: str, option: str) -> str:
    """The second line of what `vitral COMMAND OPTION x` answers."""
    kind = CLASSES[command]
    base = train.recipes()[command.split()[1]][1] if command.startswith("train") else None
    with pytest.raises(UserError) as raised:
        parse(kind, [option, "x"], f"vitral {command}", base=base, hidden=("recipe",) if base else ())
    first, second = str(raised.value).split("\n")
    assert first == f"vitral {command} has no option {option}."
    return second


@pytest.mark.parametrize(
    ("command", "right", "options"),
    [
        ("train folder", "--image-size", "--imgsz --img-size --input-size --img_size --resolution --imagesize"),
        ("train folder", "--lr", "--learning-rate --lr0 --base-lr --learning_rate --learnig-rate"),
        ("train folder", "--epochs", "--epoch --num-epochs --num_train_epochs --epocs -e --max-epochs"),
        ("train folder", "--batch-size", "--batch --bs -b --per-device-train-batch-size --batchsize"),
        ("train folder", "--out", "--output --output-dir --output_dir --project --name --save-dir -o"),
        ("train folder", "--weights", "--pretrained --checkpoint --initial-checkpoint --model-name-or-path --weigths"),
        ("train folder", "--data", "--data-dir --train-dir --dataset --data-path --root"),
        ("train folder", "--workers", "--num-workers -j --dataloader-num-workers --worker"),
        ("train folder", "--optimizer", "--opt --optim --optimiser"),
        ("train folder", "--weight-decay", "--wd --weight_decy"),
        ("train folder", "--augment", "--aa --auto-augment --augmentation"),
        ("train folder", "--ema", "--model-ema --model-ema-decay"),
        ("train folder", "--label-smoothing", "--smoothing --label-smoothing-factor"),
        ("train folder", "--drop-path", "--drop-path-rate --droppath"),
        ("train folder", "--erase", "--reprob"),
        ("train folder", "--warmup", "--warmup-epochs --warm-up"),
        ("train folder", "--clip", "--clip-grad --max-grad-norm --gradient-clip-val"),
        ("train folder", "--accumulate", "--gradient-accumulation-steps --grad-accum-steps"),
        ("train folder", "--recompute", "--grad-checkpointing --gradient-checkpointing"),
        ("train folder", "--model", "--arch -a --model-name"),
        ("train folder", "--seed", "--random-seed"),
        ("train folder", "--keep", "--save-total-limit --checkpoint-hist"),
        ("train folder", "--amp fp16", "--fp16 --half"),
        ("train folder", "--amp bf16", "--bf16"),
        ("train folder", "--amp none", "--no-amp"),
        ("train folder", "--amp", "--precision --mixed-precision"),
        ("train folder", "--device cuda", "--gpu --gpus"),
        ("train folder", "--device cpu", "--cpu"),
        ("train folder", "--device", "--devices"),
        ("train detect", "--image-size", "--imgsz"),
        ("train detect", "--queries", "--num-queries"),
        ("train detect", "--weights", "--pretrained --checkpoint"),
        ("eval", "--nms", "--iou --iou-thres"),
        ("eval", "--batch-size", "--batch --per-device-eval-batch-size"),
        ("eval", "--json", "--save-json"),
        ("eval", "--knn", "-k"),
        ("predict", "--threshold", "--conf --conf-thres --confidence --score-threshold --treshold"),
        ("predict", "--nms", "--iou"),
        ("predict", "--top", "--topk --top-k --max-det"),
        ("predict", "--device", "--devices"),
        ("predict", "--every", "--vid-stride"),
        ("predict", "--out", "--project --name --output"),
        ("embed", "--features", "--pool"),
        ("embed", "--batch-size", "--bs"),
        ("convert", "--to", "--output-format"),
        ("data check", "--workers", "-j --num-workers"),
        ("data check", "--format", "--data-format"),
        ("data split", "--val", "--val-split --val-ratio --val_size"),
        ("data split", "--test", "--test-size"),
        ("data split", "--group", "--groups --group-by"),
        ("data pack", "--shard-mb", "--shard-size --max-shard-size"),
        ("data convert", "--to", "--target-format"),
        ("data show", "--out", "--output"),
    ],
)  # fmt: skip
def test_foreign_and_misspelt_names(command, right, options):
    for option in options.split():
        assert unknown(command, option) == f"Did you mean {right}? vitral {command} --help lists all options.", option


@pytest.mark.parametrize(
    ("command", "metavar", "options"),
    [
        ("predict", "CHECKPOINT", "--checkpoint --weights --model --ckpt"),
        ("predict", "IMAGE|FOLDER|VIDEO...", "--source --input --data"),
        ("eval", "CHECKPOINT", "--weights --checkpoint --resume"),
        ("embed", "IMAGE|FOLDER...", "--source --data-dir"),
        ("data check", "DATA", "--data --dataset"),
        ("data split", "SRC", "--data --source --data-dir"),
        ("data convert", "OUT", "--out --output --output-dir"),
    ],
)
def test_what_stands_by_its_place(command, metavar, options):
    for option in options.split():
        assert unknown(command, option).startswith(f"Give {metavar} by its place: vitral {command} "), option


def test_resume_takes_no_path():
    with pytest.raises(UserError, match=r"--resume takes no value; .*: --out runs/a --resume"):
        train.parse(["folder", "--data", "photos", "--resume", "runs/a"])


def test_words_of_ultralytics():
    with pytest.raises(UserError, match=r"Did you mean vitral train folder --data photos --epochs 3 --image-size 64\?"):
        train.parse(["data=photos", "epochs=3", "imgsz=64"])
    with pytest.raises(
        UserError, match=r"vitral train detect --data d\.yaml --weights y\.pt --device cuda:0 --resume\?"
    ):
        train.parse(["detect", "data=d.yaml", "model=y.pt", "device=0", "resume=True"])
    with pytest.raises(UserError, match=r"Did you mean vitral predict best\.pt a\.jpg --threshold 0\.3 --tta\?"):
        parse(Predict, ["source=a.jpg", "model=best.pt", "conf=0.3", "augment=True"], "vitral predict")


def test_an_equals_sign_in_a_name_is_no_option(tmp_path):
    photo = tmp_path / "data=1.jpg"
    photo.touch()
    assert parse(Predict, ["run", str(photo)], "vitral predict").images == (str(photo),)
    assert parse(Predict, ["run", "a=b.jpg"], "vitral predict").images == ("a=b.jpg",)
    assert parse(Predict, ["run", "x", "--threshold", "cat=.5"], "vitral predict").threshold == ("cat=.5",)


def test_the_table_names_what_exists():
    """Every row of the table is an option of some command, and no foreign name hides one of ours in its own row."""
    fields = {field for kind in CLASSES.values() for field in options_of(kind)}
    for ours, theirs in aliases.FOREIGN.items():
        field, _, value = ours.partition("=")
        assert field in fields, ours
        assert field not in theirs.split(), ours
        if value:
            assert any(value in o.choices or field == "device" for o in options_of(Recipe).values() if o.field == field)
