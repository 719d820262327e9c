"""The way back, model by model: what is written computes the same in the library it was written for, and comes back as
the same model."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch

from tests.pretrained.conftest import EXPORTS, tiny
from tests.pretrained.parity import LIMIT, error, outputs, random_model, with_fields
from tests.pretrained.random_weights import images
from vit.errors import UserError
from vit.model.classifier import Classifier
from vit.pretrained.convert.certificate import certificate, huggingface_part, read_answer, why_not
from vit.pretrained.convert.export import exported, save_as
from vit.pretrained.files.source import open_source
from vit.pretrained.load import from_public, load
from vit.pretrained.registry.find import MODELS, find


def kinds() -> dict[str, str]:
    """A name for each family and each set of fields in it."""
    found: dict[tuple, str] = {}
    for row in MODELS.values():
        found.setdefault((row.family, str(row.fields), str(row.top)), row.name)
    return {name: MODELS[name].family for name in found.values()}


KINDS = [*kinds(), "vit_s16_rope", "vit_s16_mean", "vit_s16_rope_mean"]


def made(name: str, classes: int) -> tuple:
    row = tiny(find(name))
    return row, random_model(dataclasses.replace(row.config, num_classes=classes))


def the_same(again: Classifier, model: Classifier) -> None:
    """Bit for bit, and the same computation."""
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert dataclasses.replace(again.config, head_bias=model.config.head_bias) == model.config


def computes_the_same(again: Classifier, model: Classifier) -> None:
    """In other tensors: a row of zeros for the class token's position, or that added to the token."""
    x = images(*model.config.encoder.image_size)
    mine, other = outputs(model, x), outputs(again, x)
    assert all(error(other[key], mine[key]) < 1e-6 for key in ("patches", "prefix", "logits") if mine[key].numel())


FOLDED = ("dinov2_s14_reg4", "dinov2_g14_reg4")
"""timm adds the class token's position to the token."""


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("classes", [0, 7])
def test_timm_computes_what_was_written_for_it_and_it_comes_back(tmp_path, name, classes):
    row, model = made(name, classes)
    found = certificate(model, "timm")
    assert found["largest_relative_difference"] <= LIMIT and found["reference"].startswith("timm ")
    assert found["compared"] == ("logits" if classes else "pooled features")
    save_as(exported(model, "timm"), tmp_path / "w.safetensors")
    again = from_public(row, open_source(tmp_path / "w.safetensors")).model
    (computes_the_same if name in FOLDED else the_same)(again, model)


@pytest.mark.parametrize("name", ["vit_ti16", "deit_s16", "dino_s16", "mae_b16", "tv_b16"])
def test_torchvision_computes_what_was_written_for_it_and_it_comes_back(tmp_path, name):
    row, model = made(name, 7)
    assert certificate(model, "torchvision")["largest_relative_difference"] <= LIMIT
    save_as(exported(model, "torchvision"), tmp_path / "w.safetensors")
    the_same(from_public(row, open_source(tmp_path / "w.safetensors")).model, model)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("case", EXPORTS)
def test_hugging_face_computes_what_was_written_for_it_and_it_comes_back(exports, answered, case):
    row, model, folder = exports[case]
    answer, version = read_answer(folder)
    x = images(row.image_size, row.image_size)
    with torch.inference_mode():
        ours = huggingface_part(model, x)
    assert answered.is_dir() and error(ours, answer) <= LIMIT, version
    with torch.inference_mode():  # the comparison sees what is wrong
        assert error(huggingface_part(with_fields(model, eps=1e-2), x), answer) > LIMIT
    for again in (load(None, folder), from_public(row, open_source(folder))):
        assert abs(again.preprocess.crop - row.preprocess.crop) < 0.01  # it keeps whole pixels
        assert dataclasses.replace(again.preprocess, crop=row.preprocess.crop) == row.preprocess
        same = dataclasses.replace(model.config.encoder, position_resize=again.model.config.encoder.position_resize)
        if "reg" in case or case in ("dinov2", "deit3", "flexivit"):  # its head sees two; a position of zeros
            computes_the_same(again.model, model)
        else:
            the_same(again.model, random_like(model, same))


def random_like(model: Classifier, encoder) -> Classifier:
    """The same weights; Hugging Face resizes positions by a rule of its own."""
    return with_fields(model, **dataclasses.asdict(encoder))


@pytest.mark.parametrize(("name", "classes", "target", "told"), [
    ("eva02_ti14", 0, "hf", "no class for a ViT with rotary positions by row and column"),
    ("siglip_b16", 5, "hf", "it has no head on attention pooling"),
    ("dinov3_s16", 5, "hf", "it has no head on class pooling"),
    ("naflexvit_b16_gap", 0, "hf", "class_token is yes there, no here"),
    ("vit_s16_rope", 0, "hf", "layer_scale is yes there, no here"),
    ("deit3_s16", 5, "torchvision", "no ViT with LayerScale"),
    ("clip_b16", 5, "torchvision", "with a norm before the blocks, with the activation quick_gelu"),
    ("vit_s16_rope", 5, "torchvision", "with rotary or relative positions"),
    ("vit_ti16", 0, "torchvision", "without a head"),
])  # fmt: skip
def test_what_a_library_has_no_class_for_is_told(name, classes, target, told):
    _, model = made(name, classes)
    with pytest.raises(UserError, match=told) as caught:
        exported(model, target)
    assert "--to timm" in str(caught.value) and len(str(caught.value)) < 300


def test_what_timm_has_no_class_for_is_told():
    _, model = made("dinov2_s14", 5)
    two = dataclasses.replace(model.config, pool="class_mean")
    with pytest.raises(UserError, match="the class token and the mean side by side"):
        exported(random_model(two), "timm")
    conv = find("vit_nano8_conv_mean")
    with pytest.raises(UserError, match="a convolutional stem"):
        exported(Classifier(conv.config), "timm")


def test_sincos_positions_are_written_as_learned_ones():
    row = tiny(find("vit_ti16"))
    encoder = dataclasses.replace(row.config.encoder, positions="sincos", prefix_positions=0)
    model = random_model(dataclasses.replace(row.config, encoder=encoder, num_classes=5))
    for target in ("timm", "torchvision"):
        assert certificate(model, target)["largest_relative_difference"] <= LIMIT


def test_a_file_for_images_that_are_not_square_comes_back(tmp_path):
    """By what convert writes beside the tensors; and any other such file by the size that is asked for."""
    for name in ("vit_ti16", "beit_b16"):
        row = tiny(find(name))
        encoder = dataclasses.replace(row.config.encoder, image_size=(32, 80))
        model = random_model(dataclasses.replace(row.config, encoder=encoder, num_classes=3))
        assert certificate(model, "timm")["largest_relative_difference"] <= LIMIT
        file = tmp_path / f"{name}.safetensors"
        written = exported(model, "timm")
        save_as(written, file)
        source = open_source(file)
        the_same(from_public(row, source).model, model)
        plain = dataclasses.replace(source, card=type(source.card)())
        with pytest.raises(UserError, match=r"Give the size in pixels that they are for: image_size=\(H, W\)"):
            from_public(row, plain)
        the_same(from_public(row, plain, (32, 80)).model, model)
    smaller = dataclasses.replace(model.config.encoder, patch_size=8)  # beside which its name means patches of 16
    model = random_model(dataclasses.replace(model.config, encoder=smaller))
    save_as(exported(model, "timm"), file)
    the_same(from_public(row, open_source(file)).model, model)


def test_a_difference_is_seen_and_its_reason_told():
    """DINOv3's originals round the periods of their rotary positions, which nobody else does."""
    row = tiny(find("dinov3_s16"))
    encoder = dataclasses.replace(row.config.encoder, rope_bf16=True)
    model = random_model(dataclasses.replace(row.config, encoder=encoder))
    assert certificate(model, "timm")["largest_relative_difference"] > 1e-4
    assert "rounds the periods" in why_not(model.config, "timm") and why_not(row.config, "timm") == ""


def test_damaged_metadata_are_told(tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "w.safetensors"
    for text in ("{", "[]", '{"encoder": {}}'):
        save_file({"a": torch.zeros(1)}, file, metadata={"vitral": text})
        with pytest.raises(UserError, match="its metadata 'vitral' are damaged"):
            open_source(file)
