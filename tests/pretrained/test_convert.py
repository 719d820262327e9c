"""Other sizes, heads, channels and patches at load; and the way back, which is the identity."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import vit
from tests.pretrained.parity import error, ours_from
from tests.pretrained.random_weights import images, randomize
from vit.commands.convert import Convert
from vit.errors import UserError
from vit.model.classifier import Classifier
from vit.model.config import Size
from vit.model.resize import fit_channels
from vit.pretrained.convert.export import exported
from vit.pretrained.files.source import Source
from vit.pretrained.layouts.rules import write
from vit.pretrained.load import from_public, load, recognize
from vit.pretrained.registry.families import FAMILIES
from vit.pretrained.registry.find import Model, find
from vit.pretrained.registry.listing import flops, models
from vit.pretrained.transfer import start_from
from vit.runs.checkpoint import save_checkpoint

SMALL = Size(48, 2, 3, 96)


def tiny(family: str, **fields) -> Model:
    patch = 14 if family in ("dinov2", "aimv2") else 16
    return Model("tiny", family, SMALL, patch, 4 * patch, fields=fields)


WITHOUT_HEAD = (
    "Google .npz (vit_jax, pre",
    "Hugging Face Aimv2 vision",
    "AIMv2 (original)",
    "Hugging Face Siglip vision",
    "MAE (original",
)
"""Layouts that have no place for one; nor has NaFlex."""
BESIDES = {
    "DINOv2 (original)": ("mask_token",),
    "DINOv2 with registers (original)": ("mask_token",),
    "DINOv3 (original)": ("rope_embed.periods",),
    "Google .npz (vit_jax, pre-trained)": ("pre_logits/kernel", "pre_logits/bias", "head/kernel", "head/bias"),
    "MAE (original, pre-training)": ("decoder_embed.weight", "mask_token"),
}
"""Layouts whose files are told by what they hold besides the model."""
PARTS = {
    "timm VisionTransformer, packed SwiGLU": {"feed_forward": "swiglu"},
    "timm Eva, split projections": {"feed_forward_norm": True},
    "DINOv2 with registers (original)": {"registers": 4},
}
"""What a model has that comes in one layout of its family's and not in another."""
TWINS = {("dinov2", "timm VisionTransformer, packed SwiGLU")}
"""What another layout of the family reads as well: they differ in writing."""


def layouts() -> list[tuple[str, str]]:
    return [(family, layout.name) for family in FAMILIES for layout in FAMILIES[family].layouts]


@pytest.mark.parametrize(("family", "name"), layouts())
def test_every_layout_of_every_family_round_trips(family, name):
    """Ours -> theirs -> ours: equal tensors and an equal model."""
    layout = next(layout for layout in FAMILIES[family].layouts if layout.name == name)
    row = tiny(family, **PARTS.get(name, {}))
    headless = name.startswith(WITHOUT_HEAD) or family == "siglip2_naflex"
    config = dataclasses.replace(row.config, num_classes=0 if headless else 7)
    if "Hugging Face Dinov2" in name:  # its classifier sees more than the class token
        config = dataclasses.replace(config, pool="class_mean")
    if name.startswith("Perception"):  # a projection
        config = dataclasses.replace(config, head_bias=False)
    if "SiglipForImageClassification" in name:
        config = dataclasses.replace(config, pool="mean")
    model = Classifier(config).eval()
    randomize(model)
    prefix = "body." if "Hugging" in name else ""
    state = write(layout, config, dict(model.state_dict()), prefix)
    state |= {key: torch.zeros(1) for key in BESIDES.get(name, ())}
    source = Source.of(state, name)
    if (family, name) not in TWINS:
        assert recognize(row, source).layout is layout
    again = from_public(row, source).model.state_dict()
    assert again.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again[key], value, rtol=0, atol=0, msg=f"{name}: {key}")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch14_dinov2",
                                  "vit_base_patch16_siglip_224", "beit_base_patch16_224", "eva02_base_patch14_448",
                                  "vit_small_plus_patch16_dinov3", "vit_pe_core_base_patch16_224"])  # fmt: skip
def test_a_timm_file_comes_back_bit_for_bit(name):
    from vit.pretrained.registry.find import MODELS

    ours = next(row.name for row in MODELS.values() if row.timm and row.timm.split(".")[0] == name)
    other = timm.create_model(name, depth=2, num_classes=3)
    randomize(other)
    state = dict(other.state_dict())
    back = exported(ours_from(ours, state, 2), "timm").tensors
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_another_patch_size_at_load_is_said():
    row = dataclasses.replace(tiny("flexivit"), name="vit_x")
    model = Classifier(row.config)
    randomize(model)
    state = write(FAMILIES["flexivit"].layouts[0], row.config, dict(model.state_dict()))
    from vit.pretrained.load import adapted

    loaded = adapted(from_public(row, Source.of(state, "x")), None, (64, 96), None, {"patch_size": 8})
    told = " ".join(loaded.notes)
    assert "patch kernel is resized from 16 to 8 pixels" in told and "Positions are resized" in told
    tokens = loaded.model.forward_features(images(64, 96))
    assert tokens.grid == (8, 12)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_timms_rule(channels):
    from timm.models import adapt_input_conv

    kernel = torch.randn(48, 3, 16, 16)
    ours = fit_channels(kernel.flatten(1), 3, channels, 16).view(48, channels, 16, 16)
    assert error(ours, adapt_input_conv(channels, kernel)) < 1e-6


def a_checkpoint(tmp_path, **fields):
    row = tiny("vit", **fields)
    model = Classifier(dataclasses.replace(row.config, num_classes=3))
    randomize(model)
    config = {
        "model": model.config.to_dict(),
        "classes": ["a", "b", "c"],
        "preprocess": row.preprocess.to_dict(),
        "task": "classification",
    }
    save_checkpoint(tmp_path / "run", dict(model.state_dict()), config)
    return model, tmp_path / "run"


@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_convert_writes_a_file_and_its_certificate(tmp_path, capsys, to):
    model, folder = a_checkpoint(tmp_path)
    out = tmp_path / "out.safetensors"
    assert Convert(str(folder), str(out), to=to, check=True).run() == 0
    found = json.loads((folder / "config.json").read_text())["certificate"]
    assert found["largest_relative_difference"] < 1e-5 and to in found["reference"]
    assert "largest difference to" in capsys.readouterr().out
    row = dataclasses.replace(tiny("vit"), name="tiny")
    from vit.pretrained.files.source import open_source

    again = from_public(row, open_source(out)).model
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_a_checkpoint_without_a_place_for_the_class_token_gets_one_of_zeros(tmp_path):
    model, folder = a_checkpoint(tmp_path, prefix_positions=0)
    loaded = load(None, folder)
    state = exported(loaded.model, "hf").tensors
    assert state["vit.embeddings.position_embeddings"].shape == (1, 17, 48)
    again = from_public(tiny("vit"), Source.of(state, "x")).model
    x = images(64, 64)
    again.requires_grad_(False), model.requires_grad_(False)
    wanted = dataclasses.replace(again.config, encoder=dataclasses.replace(again.config.encoder, eps=1e-6))
    same = Classifier(wanted).eval()
    same.load_state_dict(again.state_dict())
    same.requires_grad_(False)
    assert error(same(x), model.eval()(x)) < 1e-6


def test_where_nothing_can_be_written_is_told_before_the_weights_are_read(tmp_path):
    _, folder = a_checkpoint(tmp_path)
    for out, to, told in (
        ("out.bin", "timm", r"Name the output OUT\.safetensors\."),
        ("out.bin", "hf", r"or OUT \(a folder with its config\.json\)"),
        ("no/out.safetensors", "timm", "There is no folder"),
    ):
        with pytest.raises(UserError, match=told):
            Convert(str(folder), str(tmp_path / out), to=to).run()
    with pytest.raises(UserError, match=r"is a folder that is not empty\. Choose a new name"):
        Convert(str(folder), str(folder), to="hf").run()
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match="taken could not be written"):
        Convert(str(folder), str(tmp_path / "taken"), to="hf").run()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_convert_to_hugging_face_with_a_certificate(tmp_path, capsys):
    """The whole way, in a process of transformers' own."""
    _, folder = a_checkpoint(tmp_path)
    assert Convert(str(folder), str(tmp_path / "out"), to="hf", check=True).run() == 0
    found = json.loads((folder / "config.json").read_text())["certificate"]
    assert found["largest_relative_difference"] < 1e-5 and found["compared"] == "logits"
    assert found["reference"].startswith("transformers ") and "ViTForImageClassification" in found["reference"]
    labels = json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]
    assert list(labels.values()) == ["a", "b", "c"] and "largest difference to" in capsys.readouterr().out


def test_training_starts_from_public_weights(tmp_path):
    """start_from, which `train.py finetune|probe --weights` uses: preprocessing and a new head come with it."""
    other = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    file = tmp_path / "w.safetensors"
    save_file(dict(other.state_dict()), file)
    model, config, notes = start_from(str(file), ("a", "b"), name="vit_ti16", image_size=(96, 96), drop_path=0.1)
    assert model.training and model.head.weight.shape == (2, 192) and model.config.encoder.drop_path == 0.1
    assert config["preprocess"]["mean"] == (0.5, 0.5, 0.5) or config["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert notes == [
        "Positions are resized from 224x224 to 96x96 pixels.",
        "New head for 2 classes (the checkpoint has 1000).",
    ]
    assert model(images(96, 96)).shape == (1, 2)


def test_create_with_weights_says_what_it_changed(tmp_path, caplog):
    other = timm.create_model("vit_tiny_patch16_224", num_classes=10).eval()
    file = tmp_path / "w.safetensors"
    save_file(dict(other.state_dict()), file)
    model = vit.create("vit_ti16", weights=file, num_classes=4, image_size=(64, 96), in_chans=1)
    told = caplog.text
    assert "Input channels 3 -> 1" in told and "New head for 4 classes" in told and "Positions are resized" in told
    assert model(images(64, 96)[:, :1]).shape == (1, 4)
    bare = vit.create("vit_ti16", weights=file, num_classes=0)
    x = images(224, 224)
    with torch.inference_mode():
        assert error(bare(x), other.forward_head(other.forward_features(x), pre_logits=True)) < 1e-5
    assert not any(parameter.is_meta or not parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["dinov2_s14_reg4", "siglip2_b16", "eva02_s14"])
def test_flops_are_counted_as_torch_counts_them(name):
    from torch.utils.flop_counter import FlopCounterMode

    row = find(name)
    row = dataclasses.replace(row, size=row.size._replace(depth=2))
    with torch.device("meta"):
        model = Classifier(row.config).requires_grad_(False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, row.image_size, row.image_size))
    assert abs(counter.get_total_flops() / flops(row.config) - 1) < 0.01


def test_models_are_listed():
    found = {m.name: m for m in models("dinov*_s1*")}
    assert {"dinov2_s14", "dinov2_s14_reg4", "dinov3_s16", "dinov3_s16plus"} <= found.keys()
    assert 21e6 < found["dinov2_s14"].parameters < 23e6 and found["dinov2_s14"].license == "Apache-2.0"
    assert "hf:facebook/dinov2-small" in found["dinov2_s14"].sources


def test_the_models_command(capsys):
    from vit.__main__ import command

    assert command(["models", "dinov2_s*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[1].startswith("dinov2_s14 ") and "hf:facebook/dinov2-small" in lines[1]
    with pytest.raises(UserError, match="No model matches 'dinov9'"):
        command(["models", "dinov9"])


def test_the_convert_command(tmp_path, capsys):
    from vit.__main__ import command

    _, folder = a_checkpoint(tmp_path)
    assert command(["convert", str(folder), str(tmp_path / "o.safetensors"), "--to", "hf"]) == 0
    assert "as hf names it" in capsys.readouterr().out
    assert "vit.encoder.layer.0.attention.attention.query.weight" in load_file(tmp_path / "o.safetensors")


def test_a_model_is_found_by_its_source():
    from vit.pretrained.registry.find import by_source

    assert by_source("timm:vit_small_patch14_dinov2.lvd142m").name == "dinov2_s14"
    assert by_source("hf:facebook/dinov2-small").name == "dinov2_s14"
    assert by_source("hf:nobody/nothing") is None
