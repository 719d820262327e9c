"""Time from the command to its answer, each in a new process with the files in the page cache: `import vit`, `vitral
predict` on one photograph with ViT-S/16 at 224, `train.py --dry-run`, and what does the same with timm, torchvision and
transformers.

Everyone loads its own saved random weights, offline, prepares the image as its own documentation has it and prints
the five best classes. The peers' dry run is one training step of a model as wide and deep as ours on digits, from PNG
class folders; ours checks the data, counts FLOPs and measures its step for two seconds, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.contest import parsed, write
from benchmarks.photos import write_photos
from benchmarks.turns import Clock, Turns, table
from benchmarks.vits import Shape, timm, torchvision, transformers
from vit.errors import UserError

ROOT = Path(__file__).parents[1]
SHAPE = Shape.of("s", 224)

TIMM = """
import sys, torch, timm
from PIL import Image
model = timm.create_model("vit_small_patch16_224", checkpoint_path=sys.argv[1]).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.inference_mode():
    scores = model(transform(Image.open(sys.argv[2]).convert("RGB"))[None]).softmax(-1)[0]
values, classes = scores.topk(5)
print(", ".join(f"{c} {v:.2%}" for c, v in zip(classes.tolist(), values.tolist())))
"""
TORCHVISION = """
import sys, torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import VisionTransformer
from torchvision.transforms._presets import ImageClassification
model = VisionTransformer(224, 16, 12, 6, 384, 1536).eval()
model.load_state_dict(load_file(sys.argv[1]))
with torch.inference_mode():
    image = ImageClassification(crop_size=224)(Image.open(sys.argv[2]).convert("RGB"))
    scores = model(image[None]).softmax(-1)[0]
values, classes = scores.topk(5)
print(", ".join(f"{c} {v:.2%}" for c, v in zip(classes.tolist(), values.tolist())))
"""
TRANSFORMERS = """
import sys
from transformers import pipeline
found = pipeline("image-classification", model=sys.argv[1])(sys.argv[2], top_k=5)
print(", ".join(f"{f['label']} {f['score']:.2%}" for f in found))
"""
AUTO = """
import sys, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
with torch.inference_mode():
    scores = model(**processor(Image.open(sys.argv[2]).convert("RGB"), return_tensors="pt")).logits.softmax(-1)[0]
values, classes = scores.topk(5)
print(", ".join(f"{model.config.id2label[c]} {v:.2%}" for c, v in zip(classes.tolist(), values.tolist())))
"""
TIMM_TRAINING = """
import sys, torch, timm
from timm.data import create_dataset, create_loader
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
data = create_dataset("", root=sys.argv[1], split="train", is_training=True)
loader = create_loader(data, (3, 28, 28), 64, is_training=True, num_workers=0, use_prefetcher=False,
                       persistent_workers=False)
model = VisionTransformer(img_size=28, patch_size=7, embed_dim=128, depth=4, num_heads=4, num_classes=10)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
images, targets = next(iter(loader))
loss = torch.nn.functional.cross_entropy(model(images), targets)
loss.backward()
optimizer.step()
print(sum(p.numel() for p in model.parameters()), "parameters, loss", float(loss))
"""


@dataclass(frozen=True)
class Options:
    what: tuple[Literal["import", "predict", "dry-run"], ...] = ("import", "predict", "dry-run")
    peers: tuple[Literal["timm", "torchvision", "pipeline", "transformers"], ...] = (
        "timm", "torchvision", "pipeline", "transformers",
    )  # fmt: skip
    """pipeline and transformers: the latter's two ways."""
    rounds: int = 5
    clock: Clock = "cpu"
    json: str | None = None


def seconds(command: Sequence[str], clock: Clock, folder: Path, *, ours: bool) -> float:
    """Of a new process: computed by it and its children, or passed until it has ended. UserError if it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    # The peers must not find our `datasets` for Hugging Face's: theirs run elsewhere.
    begun = time.perf_counter()
    with (folder / "said").open("w+b") as said:
        child = subprocess.Popen(
            command, cwd=ROOT if ours else folder, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        passed = time.perf_counter() - begun
        if child.returncode:
            said.seek(0)
            raise UserError(f"{' '.join(command)[:300]}: exit code {child.returncode}. {said.read().decode()[-2000:]}")
    return used.ru_utime + used.ru_stime if clock == "cpu" else passed


def prepare(folder: Path, peers: Sequence[str]) -> Path:
    """Random weights in everyone's own format, and a photograph: its path."""
    from safetensors.torch import save_file

    from vit.images.preprocess import Preprocess
    from vit.model.classifier import create
    from vit.runs.checkpoint import save_checkpoint

    write_photos(folder / "photos", 1, (375, 500))
    torch.manual_seed(0)
    model = create("vit_s16")
    config = {
        "task": "classification",
        "model": model.config.to_dict(),
        "classes": [f"class {k}" for k in range(1000)],
        "preprocess": Preprocess((224, 224), crop=0.875).to_dict(),
    }
    save_checkpoint(folder / "ours", model.state_dict(), config)
    if "timm" in peers:
        save_file(timm(SHAPE).state_dict(), folder / "timm.safetensors")
    if "torchvision" in peers:
        save_file(torchvision(SHAPE).state_dict(), folder / "torchvision.safetensors")
    if {"pipeline", "transformers"} & set(peers):
        wrapped: Any = transformers(SHAPE)  # which imports the package as it has to be
        from transformers import ViTImageProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        wrapped.model.save_pretrained(folder / "transformers")
        ViTImageProcessor().save_pretrained(folder / "transformers")
    return next((folder / "photos").rglob("*.jpg"))


def commands(what: str, folder: Path, image: Path, peers: Sequence[str]) -> dict[str, list[str]]:
    """name -> command; ours begin with "vit"."""
    python, script = sys.executable, [sys.executable, "-c"]
    if what == "import":
        imports = {"timm": "timm", "torchvision": "torchvision", "transformers": "transformers"}
        others = {name: [*script, f"import {package}"] for name, package in imports.items() if name in peers}
        made = {"vit": [*script, "import vit"], "vit.load": [*script, "import vit; vit.load"], **others}
        return {"python": [*script, "pass"], **made, "torch": [*script, "import torch"]}
    if what == "predict":
        scripts = {
            "timm": (TIMM, "timm.safetensors"),
            "torchvision": (TORCHVISION, "torchvision.safetensors"),
            "pipeline": (TRANSFORMERS, "transformers"),
            "transformers": (AUTO, "transformers"),
        }
        others = {name: [*script, scripts[name][0], str(folder / scripts[name][1]), str(image)] for name in peers}
        return {"vitral predict": [python, "-m", "vit", "predict", str(folder / "ours"), str(image)], **others}
    if not (folder / "digits").exists():
        write_digits(folder / "digits")
    made = {"vitral train.py --dry-run": [python, "train.py", "--dry-run"]}
    return {**made, "timm": [*script, TIMM_TRAINING, str(folder / "digits")]} if "timm" in peers else made


def write_digits(folder: Path) -> None:
    """100 of the bundled digits as PNG class folders."""
    from PIL import Image

    from vit.data import open_data

    images = open_data("digits", kind="labels").train
    for i in range(100):
        place = folder / "train" / images.classes[int(images.targets[i])]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.image(i)).save(place / f"{i}.png")


def main(arguments: list[str]) -> None:
    o = parsed(Options, arguments, "start", __doc__)
    results = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        image = prepare(folder, o.peers)
        for what in o.what:
            runs: dict[str, Callable[[], float]] = {}
            for name, command in commands(what, folder, image, o.peers).items():
                mine = name.startswith("vit")
                runs[name] = lambda command=command, mine=mine: seconds(command, o.clock, folder, ours=mine)
            turns = process_turns(runs, o.rounds)
            print(f"\n### {what}\n\n{lines(turns)}", flush=True)
            first = next(name for name in runs if name.startswith("vit"))
            ratios = {name: turns.ratio(first, name)._asdict() for name in runs}
            results[what] = {"turns": turns.to_dict(), "ours / theirs": ratios}
    write(o.json, {"options": asdict(o), "results": results})


def process_turns(runs: dict[str, Callable[[], float]], rounds: int) -> Turns:
    """`take_turns` for what tells its seconds itself; the first of each, which fills the page cache, does not count."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs)[:: -1 if i % 2 else 1]:
            seconds[name].append(runs[name]())
    return Turns(seconds)


def lines(turns: Turns) -> str:
    mine = next(name for name in turns.seconds if name.startswith("vit"))
    rows = [[name, f"{turns[name].median:.2f}", turns.ratio(mine, name).told()] for name in turns.seconds]
    return table(["command", "seconds", "ours / theirs"], rows)
