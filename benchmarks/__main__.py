"""python -m benchmarks NAME [--options]"""

from __future__ import annotations

import importlib
import sys

from vit.commands.exit import run
from vit.errors import UserError, nearest

NAMES = {
    "model": "forward and training step of ViT-Ti, S, B: ours, timm, transformers, torchvision, vit-pytorch, in turn",
    "small": "the same for the small models that the bundled recipes train",
    "endtoend": "images per second of whole epochs on a folder of JPEGs: ours against timm's loader, model, optimizer",
    "detect": "RF-DETR-nano, latency and training step: ours against the rfdetr package and transformers",
    "start": "from the command to its answer: import, predict, dry run, against timm, torchvision and transformers",
    "growth": "time and memory against tokens, batch, boxes and images, with their exponents",
    "merging": "token merging: test top-1 and time of a checkpoint against the number of tokens merged in a block",
    "checkpointing": "steps of a training loop with a checkpoint every 100 and without",
    "digits": "time to 98 % on the bundled digits: ours against timm's VisionTransformer, epoch by epoch in turn",
    "small_data": "from scratch on 350, 1,000 and 3,500 images: ours, timm's VisionTransformer and a small CNN",
    "data": "decoding and augmenting JPEGs: ours against timm's create_loader and torchvision's v2 transforms",
    "index": "a folder of a million images: time and memory of its index, memory over three epochs with four workers",
    "cache": "--cache ram and disk against decoding every time: images per second, and what it does to the pixels",
    "shards": "tar shards against single files: a first, cold epoch and a second",
    "transfer": "public weights against training from scratch: probe, k-NN and fine-tuning on two sets of digits",
    "detection": "ours, transformers' LW-DETR and DEIMv2, torchvision's Faster R-CNN: equal images, then equal time",
    "photographs": "public weights under a detector's head against training from scratch, on tiles of real pictures",
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("python -m benchmarks NAME [--options]\n")
        for name, told in NAMES.items():
            print(f"  {name:<13} {told}")
        return
    name = sys.argv[1]
    if name not in NAMES:
        raise UserError(f"there is no benchmark {name!r}.{nearest(name, NAMES)} There are {', '.join(NAMES)}.")
    try:
        importlib.import_module(f"benchmarks.{name}").main(sys.argv[2:])
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("vit", "datasets", "benchmarks"):
            raise
        raise UserError(
            f"{name} needs the package {package}: pip install -e '.[peers,test,fast]' brings all."
        ) from None


if __name__ == "__main__":
    run(main)
