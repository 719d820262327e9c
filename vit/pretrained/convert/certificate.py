"""Proof that a converted model computes the same in the library it was converted for."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import Classifier
from vit.model.config import ClassifierConfig
from vit.pretrained.convert.export import Exported, Target, exported, save_folder
from vit.pretrained.convert.huggingface_peer import huggingface_class
from vit.pretrained.convert.timm_peer import timm_model

LIMIT = 1e-4
"""A larger relative difference means that something is computed differently."""


class Answers(NamedTuple):
    what: str
    """What is compared: logits, or features where there is no head."""
    ours: Tensor
    theirs: Tensor
    reference: str
    """The library, its version, and the class."""


@torch.inference_mode()
def certificate(model: Classifier, target: Target, *, seed: int = 0) -> dict[str, Any]:
    """Compare logits (features without a head) with the reference library on random images in fp32.

    Raises UserError if that library is missing or has no class that computes the same.
    """
    model.eval()
    e = model.config.encoder
    found = exported(model, target)
    shape = (2, e.in_chans, *e.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    compare = {"timm": _timm, "hf": _huggingface, "torchvision": _torchvision}[target]
    answers = compare(model, found, images)
    difference = float((answers.ours - answers.theirs).abs().max())
    return {
        "reference": answers.reference,
        "torch": torch.__version__,
        "input": f"torch.randn({list(shape)}, seed {seed}), float32",
        "compared": answers.what,
        "largest_absolute_difference": difference,
        "largest_relative_difference": difference / float(answers.theirs.abs().max()),
    }


def why_not(config: ClassifierConfig, target: Target) -> str:
    """A known reason why the outputs differ, or ''."""
    if config.encoder.rope_bf16:
        return (
            " The original DINOv3 rounds the periods of its rotary positions to bfloat16, as this model does; "
            f"{target} does not, and its features differ by about 0.1 %."
        )
    return ""


def _timm(model: Classifier, found: Exported, images: Tensor) -> Answers:
    import timm

    reference = timm_model(found.config)
    reference.load_state_dict(found.tensors)
    ours = model(images)
    if model.config.pool == "class_distill" and not model.config.num_classes:  # timm gives the mean of both tokens
        ours = torch.stack(ours.chunk(2, dim=1)).mean(dim=0)
    return Answers(_what(model.config), ours, reference.eval()(images), f"timm {timm.__version__} {found.made_for}")


def _torchvision(model: Classifier, found: Exported, images: Tensor) -> Answers:
    import torchvision
    from torchvision.models.vision_transformer import VisionTransformer

    c, e = found.config, found.config.encoder
    norm = partial(torch.nn.LayerNorm, eps=e.eps)
    size = (e.image_size[0], e.patch_size, e.depth, e.heads, e.width, e.mlp)
    reference = VisionTransformer(*size, num_classes=c.num_classes, norm_layer=norm)
    reference.load_state_dict(found.tensors)
    version = f"torchvision {torchvision.__version__} {found.made_for}"
    return Answers("logits", model(images), reference.eval()(images), version)


def _what(config: ClassifierConfig) -> str:
    return "logits" if config.num_classes else "pooled features"


def _huggingface(model: Classifier, found: Exported, images: Tensor) -> Answers:
    if importlib.util.find_spec("transformers") is None:
        raise UserError("--check of --to hf needs the package transformers: pip install transformers.")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_folder(found, folder, Preprocess(model.config.encoder.image_size))
        ask(folder, found.config, images)
        answer([folder])
        theirs, version = read_answer(folder)
    ours = huggingface_part(model, images)
    return Answers(output_of(found.config), ours, theirs, f"transformers {version} {found.made_for}")


def output_of(config: ClassifierConfig) -> str:
    peer = huggingface_class(config)
    return peer.head_output if config.num_classes else peer.output


def huggingface_part(model: Classifier, images: Tensor) -> Tensor:
    """Our output that corresponds to Hugging Face's: logits, pooled features or all tokens."""
    what = output_of(model.config)
    if what != "last_hidden_state":
        return model(images)
    tokens = model.forward_features(images)
    return torch.cat([tokens.prefix, tokens.patches], dim=1)


def ask(folder: Path, config: ClassifierConfig, images: Tensor) -> None:
    """Write the input for huggingface_process.py into a folder of Hugging Face's."""
    e = config.encoder
    inputs = {"pixel_values": images.contiguous()}
    if huggingface_class(config).model_type == "siglip2_vision_model":  # patches unrolled as [p, p, C], and their grid
        p, (h, w) = e.patch_size, e.grid
        patches = images.unflatten(3, (w, p)).unflatten(2, (h, p)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        inputs = {
            "pixel_values": patches.contiguous(),
            "pixel_attention_mask": torch.ones(len(images), h * w, dtype=torch.long),
            "spatial_shapes": torch.tensor([[h, w]]).repeat(len(images), 1),
        }
    save_file(inputs, folder / "inputs.safetensors")
    name = huggingface_class(config).name(config)
    # These would add a tanh layer that no head uses, with random weights.
    arguments = {"add_pooling_layer": False} if name in ("ViTModel", "DeiTModel") else {}
    text = json.dumps({"class": name, "arguments": arguments, "output": output_of(config)})
    (folder / "request.json").write_text(text, encoding="utf-8")


def answer(folders: list[Path]) -> None:
    """Run transformers in a process outside our checkout, without a network."""
    script = Path(__file__).with_name("huggingface_process.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", str(script), *map(str, folders)]
    done = subprocess.run(command, cwd=folders[0], env=environment, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines() or ["no message"]
        raise UserError(f"transformers could not run the model: {last[-1]}")


def read_answer(folder: Path) -> tuple[Tensor, str]:
    """(the output, transformers' version). Raises UserError if transformers did not accept the weights."""
    answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    if answer["wrong"]:
        raise UserError(f"transformers {answer['version']} does not accept these weights: {answer['wrong']}.")
    return load_file(folder / "answer.safetensors")["answer"], answer["version"]
