"""Every way a file of weights can be wrong: one named, readable error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vit
from tests.pretrained.random_weights import randomize
from vit.classifier import Classifier
from vit.config import Size
from vit.errors import UserError
from vit.pretrained import huggingface_layouts as hf
from vit.pretrained import timm_layouts
from vit.pretrained.load import from_public, load
from vit.pretrained.registry import MODELS, Model, find
from vit.pretrained.rules import write
from vit.pretrained.source import Source, open_source

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
    assert "width 48, 2 blocks, hidden 96" in message and "width 96, 2 blocks, hidden 192" in message
    deep = dataclasses.replace(TINY, size=TINY.size._replace(depth=3))
    assert "3 blocks" in refused(state, deep)


def test_another_family_is_told_by_its_layout(state):
    other = dataclasses.replace(TINY, family="siglip2_naflex")
    assert "is in the layout timm VisionTransformer" in refused(state, other)
    assert "in no known layout" in refused({"a": torch.zeros(1)})


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
    ([f"blocks.{i}.mlp.norm.{end}" for i in range(2) for end in ("weight", "bias")], "has a norm inside its feed-forw"),
])  # fmt: skip
def test_a_part_that_the_family_has_not_is_another_familys(state, more, told):
    state |= {key: torch.ones(96 if "mlp" in key else 48) for key in more}
    assert told in refused(state)


def test_positions_that_make_no_grid(state):
    state["pos_embed"] = torch.zeros(1, 15, 48)
    assert "15 positions are neither a square grid" in refused(state)


def test_quantised_weights(state):
    state["blocks.0.norm1.weight"] = torch.zeros(48, dtype=torch.int8)
    assert "quantised" in refused(state)


def test_a_truncated_file(tmp_path, state):
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"w\.safetensors is not a whole safetensors file"):
        vit.create("vit_s16", weights=file)
    npz = tmp_path / "w.npz"
    np.savez(npz, a=np.zeros(1000))
    npz.write_bytes(npz.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"w\.npz is not a whole \.npz file"):
        open_source(npz)
    onnx = tmp_path / "w.onnx"
    onnx.write_bytes(b"not a graph")
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match=r"w\.onnx is not a whole ONNX file"):
        open_source(onnx)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_in_it(tmp_path, capsys):
    file = tmp_path / "w.pth"
    torch.save({"model": Evil()}, file)
    with pytest.raises(UserError, match="wants to run code"):
        vit.create("vit_s16", weights=file)
    npz = tmp_path / "w.npz"
    np.savez(npz, a=np.array([Evil()], dtype=object))
    with pytest.raises(UserError, match="not a whole"):
        open_source(npz)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_not_there_or_of_no_known_kind(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        vit.create("vit_s16", weights=tmp_path / "w.safetensors")
    (tmp_path / "w.h5").touch()
    with pytest.raises(UserError, match="weights are read from"):
        open_source(tmp_path / "w.h5")


def test_names_that_do_not_exist():
    with pytest.raises(UserError, match='Did you mean "dinov2_s14"'):
        find("dinov2_s41")
    with pytest.raises(UserError, match="say which model it is"):
        load(None, "w.safetensors")
    with pytest.raises(UserError, match="timm has no model"):
        load("vit_s16", "timm:vit_smal_patch16_224")
    with pytest.raises(UserError, match="OWNER/REPO"):
        load("vit_s16", "hf:dinov2")


def test_without_a_network_the_message_says_what_to_put_where(monkeypatch, tmp_path):
    from huggingface_hub import errors

    def offline(*_, **__):
        raise errors.LocalEntryNotFoundError("outgoing traffic has been disabled")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(UserError, match=r"could not be fetched .* --weights FILE\.safetensors"):
        load("dinov2_s14", "hf:facebook/dinov2-small")

    def no_network(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("timm.create_model", no_network)
    with pytest.raises(UserError, match=r"could not be fetched .* Name or service .* --weights FILE\.safetensors"):
        load("vit_s16", "timm:vit_small_patch16_224")


def test_a_layout_lists_what_it_leaves_out(state):
    row = dataclasses.replace(TINY, family="deit")
    config = dataclasses.replace(TINY.config, num_classes=5)
    model = Classifier(config)
    tensors = write(hf.VIT, config, dict(model.state_dict()), "vit.")
    tensors["vit.pooler.dense.weight"] = torch.zeros(48, 48)
    loaded = from_public(row, Source.of(tensors, "x"))
    assert loaded.notes == ("left out: pooler.dense.* (a tanh layer of the base model, which no head uses)",)


def test_the_registry_names_each_model_once_and_each_config_holds():
    for name, row in MODELS.items():
        assert row.name == name and row.config.encoder.width == row.size.width
        assert row.preprocess.size == (row.image_size, row.image_size)
