"""Every way a file of weights can be wrong: one named, readable error."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vit
from tests.pretrained.random_weights import randomize
from vit.errors import UserError
from vit.model.classifier import Classifier
from vit.model.config import Size
from vit.pretrained.files.source import Source, open_source
from vit.pretrained.layouts import huggingface as hf
from vit.pretrained.layouts import timm as timm_layouts
from vit.pretrained.layouts.rules import write
from vit.pretrained.load import from_public, load
from vit.pretrained.registry.find import MODELS, Model, find

TINY = Model("tiny", "vit", Size(48, 2, 3, 96), 16, 64)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    model = Classifier(dataclasses.replace(TINY.config, num_classes=5))
    randomize(model)
    return write(timm_layouts.TIMM, model.config, dict(model.state_dict()))


def refused(state, row=TINY) -> str:
    with pytest.raises(UserError) as caught:
        from_public(row, Source.of(state, "w.safetensors"))
    message = str(caught.value)
    assert message.startswith("w.safetensors") and len(message) < 700
    return message


def test_whole_files_are_read(state):
    model = from_public(TINY, Source.of(state, "x")).model
    assert model.config.num_classes == 5 and not model.training


def test_a_missing_key_is_named(state):
    del state["blocks.1.attn.proj.bias"]
    assert "missing: encoder.blocks.1.attn.proj.bias" in refused(state)


def test_an_extra_key_is_named(state):
    state["blocks.0.attn.surprise"] = torch.zeros(2)
    state["blocks.1.gate"] = torch.zeros(2)
    assert "not used: blocks.0.attn.surprise, blocks.1.gate" in refused(state)


def test_a_shape_that_does_not_fit_is_named(state):
    state["blocks.1.mlp.fc1.weight"] = torch.zeros(48, 96)  # transposed
    assert "blocks.1.mlp.fc1.weight is [48, 96], encoder.blocks.1.mlp.fc1.weight [96, 48]" in refused(state)


def test_another_size_is_told_by_its_numbers(state):
    wide = dataclasses.replace(TINY, size=Size(96, 2, 3, 192))
    message = refused(state, wide)
    assert "width 48, 2 blocks, hidden width 96" in message and "width 96, 2 blocks, hidden width 192" in message
    deep = dataclasses.replace(TINY, size=TINY.size._replace(depth=3))
    assert "3 blocks" in refused(state, deep)


def test_another_family_is_told_by_its_layout(state):
    other = dataclasses.replace(TINY, family="siglip2_naflex")
    assert "has the layout timm VisionTransformer" in refused(state, other)
    assert "has no known layout" in refused({"a": torch.zeros(1)})


@pytest.mark.parametrize(("keys", "told"), [
    (["pos_embed"], "has no positions"), (["cls_token"], "has no class token"),
    (["norm.weight", "norm.bias"], "has no last norm"),
])  # fmt: skip
def test_a_part_that_the_family_has_is_not_left_out_by_luck(state, keys, told):
    for key in keys:
        del state[key]
    assert told in refused(state)


@pytest.mark.parametrize(("more", "told"), [
    (["norm_pre.weight", "norm_pre.bias"], "has a norm before the blocks"),
    ([f"blocks.{i}.ls{j}.gamma" for i in range(2) for j in (1, 2)], "has a LayerScale"),
    ([f"blocks.{i}.mlp.norm.{end}" for i in range(2) for end in ("weight", "bias")], "has a norm inside its feed-forw"),
])  # fmt: skip
def test_a_part_that_the_family_has_not_is_another_familys(state, more, told):
    state |= {key: torch.ones(96 if "mlp" in key else 48) for key in more}
    assert told in refused(state)


def test_positions_that_make_no_grid(state):
    state["pos_embed"] = torch.zeros(1, 15, 48)
    assert "15 positions are neither a square grid" in refused(state)


def test_quantized_weights(state):
    state["blocks.0.norm1.weight"] = torch.zeros(48, dtype=torch.int8)
    assert "Quantized" in refused(state)


def test_a_truncated_file(tmp_path, state):
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"w\.safetensors is not a complete safetensors file"):
        vit.create("vit_s16", weights=file)
    npz = tmp_path / "w.npz"
    np.savez(npz, a=np.zeros(1000))
    npz.write_bytes(npz.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"w\.npz is not a complete \.npz file"):
        open_source(npz)
    onnx = tmp_path / "w.onnx"
    onnx.write_bytes(b"not a graph")
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match=r"w\.onnx is not a complete ONNX file"):
        open_source(onnx)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_in_it(tmp_path, capsys):
    file = tmp_path / "w.pth"
    torch.save({"model": Evil()}, file)
    with pytest.raises(UserError, match="would run code"):
        vit.create("vit_s16", weights=file)
    npz = tmp_path / "w.npz"
    np.savez(npz, a=np.array([Evil()], dtype=object))
    with pytest.raises(UserError, match="not a complete"):
        open_source(npz)
    assert capsys.readouterr().out == ""


def test_torchscript_is_read_without_its_code(tmp_path, capsys):
    """As OpenAI publishes CLIP."""
    from torch import nn

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).half()
            self.proj = nn.Parameter(torch.randn(4, 2).T)  # not contiguous
            self.register_buffer("size", torch.tensor(7))

        def forward(self, x):
            return self.visual(x)

    module, file = Tower(), tmp_path / "clip.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out, its files are not
        torch.jit.script(module).save(str(file))
    source = open_source(file)
    assert source.shapes.keys() == module.state_dict().keys()
    assert all(torch.equal(source.get(key), value) for key, value in module.state_dict().items())
    damaged = tmp_path / "half.pt"
    damaged.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(UserError, match=r"half\.pt is not a complete PyTorch file"):
        open_source(damaged)
    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("evil/constants.pkl", b"")
        archive.writestr("evil/data.pkl", pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"would run code \(builtins\.print\)\. It was refused"):
        open_source(evil)
    assert capsys.readouterr().out == ""


def test_gray_weights_meet_images_in_color(tmp_path, state):
    """Files are decoded to three channels: the kernel is brought to them, and that is said."""
    from vit.tasks.classification.features import open_encoder

    gray = vit.create("vit_nano16", num_classes=0, in_chans=1)
    file = tmp_path / "gray.safetensors"
    save_file(write(timm_layouts.TIMM, gray.config, dict(gray.state_dict())), file)
    encoder, notes = open_encoder(str(file), model="vit_nano16")
    assert "Input channels 1 -> 3" in notes[0]
    pixels = np.full((224, 224, 3), 200, np.uint8)
    pixels[:100] = 30
    x = encoder.preprocess.tensor(encoder.preprocess.pixels(pixels)[None])
    with torch.inference_mode():
        torch.testing.assert_close(encoder.features(pixels), gray.eval()(x[:, :1]), rtol=1e-4, atol=1e-4)


def test_a_file_that_is_not_there_or_of_no_known_kind(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        vit.create("vit_s16", weights=tmp_path / "w.safetensors")
    (tmp_path / "w.h5").touch()
    with pytest.raises(UserError, match="weights are read from"):
        open_source(tmp_path / "w.h5")


def test_names_that_do_not_exist():
    with pytest.raises(UserError, match='Did you mean "dinov2_s14"'):
        find("dinov2_s41")
    with pytest.raises(UserError, match="name the model of these weights"):
        load(None, "w.safetensors")
    with pytest.raises(UserError, match="timm has no model"):
        load("vit_s16", "timm:vit_smal_patch16_224")
    with pytest.raises(UserError, match="OWNER/REPO"):
        load("vit_s16", "hf:dinov2")


def test_a_layout_lists_what_it_leaves_out(state):
    row = dataclasses.replace(TINY, family="deit")
    config = dataclasses.replace(TINY.config, num_classes=5)
    model = Classifier(config)
    tensors = write(hf.VIT, config, dict(model.state_dict()), "vit.")
    tensors["vit.pooler.dense.weight"] = torch.zeros(48, 48)
    loaded = from_public(row, Source.of(tensors, "x"))
    assert loaded.notes == ("Left out: pooler.dense.* (a tanh layer of the base model, which no head uses).",)


def test_the_registry_names_each_model_once_and_each_config_holds():
    for name, row in MODELS.items():
        assert row.name == name and row.config.encoder.width == row.size.width
        assert row.preprocess.size == (row.image_size, row.image_size)
