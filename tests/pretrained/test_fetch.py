"""`hf:` and `timm:`, against a Hub on this machine's loopback: what is fetched, what is found in the cache without a
network, and what is said where there is neither."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save, save_file

import vit
from tests.pretrained.hub import Hub, running
from tests.pretrained.parity import error, outputs, random_model
from tests.pretrained.random_weights import images, randomize
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import Classifier
from vit.model.config import Size
from vit.pretrained.convert.export import exported, save_folder
from vit.pretrained.files.source import open_source
from vit.pretrained.layouts import clip as clip_layouts
from vit.pretrained.layouts import google as google_layouts
from vit.pretrained.layouts.rules import write
from vit.pretrained.load import load
from vit.pretrained.registry.find import MODELS
from vit.pretrained.registry.model import Model

ROW = Model("row", "vit", Size(48, 2, 3, 96), 16, 64)
OWN = Preprocess((64, 64), "squash", interpolation="bilinear", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
TIMM = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@pytest.fixture(scope="module")
def model() -> Classifier:
    encoder = replace(ROW.config.encoder, eps=1e-4, activation="quick_gelu")
    return random_model(replace(ROW.config, encoder=encoder, num_classes=3))


def shards(folder: Path) -> dict[str, bytes]:
    """A folder of Hugging Face's with its weights in three files."""
    source = open_source(folder)
    names = sorted(source.shapes)
    index, files = {}, {}
    for i in range(3):
        name = f"model-0000{i + 1}-of-00003.safetensors"
        part = {key: source.get(key).contiguous() for key in names[i::3]}
        files[name] = save(part, metadata={"format": "pt"})
        index |= dict.fromkeys(part, name)
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": index}).encode()
    return files | {"config.json": (folder / "config.json").read_bytes()}


@pytest.fixture(scope="module")
def hub(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub") / "vit"
    save_folder(exported(model, "hf"), folder, OWN, ["a", "b", "c"])
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    pickled = io.BytesIO()
    torch.save(dict(load(None, folder).model.state_dict()), pickled)
    row = Model("pe", "pe_spatial", ROW.size, 16, 64)
    perceiving = random_model(row.config)
    original = write(clip_layouts.PE_SPATIAL, row.config, dict(perceiving.state_dict()))
    pt, npz = io.BytesIO(), io.BytesIO()
    torch.save(original, pt)
    flax = write(google_layouts.VIT_JAX, model.config, dict(model.state_dict()))
    np.savez(npz, **{key: value.numpy() for key, value in flax.items()})
    other = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    randomize(other)
    with running() as hub:
        hub.files = {
            "someone/vit": whole,
            "someone/parts": shards(folder),
            "someone/lost": {k: v for k, v in shards(folder).items() if "00002" not in k},
            "someone/PE-Tiny": {"PE-Tiny.pt": pt.getvalue()},
            "someone/jax": {"augreg/Ti_16.npz": npz.getvalue(), "README.md": b"files"},
            f"timm/{TIMM}": {"model.safetensors": save(dict(other.state_dict()))},
        }
        hub.gated = {"someone/gated"}
        hub.timm = other.eval()  # pyright: ignore[reportAttributeAccessIssue]
        yield hub


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface_hub, which asks our stand-in."""
    ask(monkeypatch, hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return tmp_path / "cache"


def ask(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def equal(one: Classifier, other: Classifier) -> bool:
    x = images(64, 64)
    ours, theirs = outputs(one, x), outputs(other, x)
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_repository_that_no_list_knows_tells_its_model_itself(cache, hub, model, monkeypatch):
    """By its config.json, activation and eps included; and how images are prepared. Then from the cache alone."""
    loaded = load(None, "hf:someone/vit")
    assert equal(loaded.model, model) and loaded.preprocess == OWN
    asked = len(hub.asked)
    offline(monkeypatch)
    again = load(None, "hf:someone/vit")
    assert equal(again.model, model) and again.preprocess == OWN and len(hub.asked) == asked


def test_weights_in_several_files(cache, hub, model, monkeypatch):
    loaded = load(None, "hf:someone/parts")
    assert equal(loaded.model, model)
    offline(monkeypatch)
    assert equal(load(None, "hf:someone/parts").model, model)
    # The same from a folder, and from the index in it.
    (folder,) = (cache / "models--someone--parts" / "snapshots").iterdir()
    assert equal(load(None, folder).model, model)
    assert equal(load(None, folder / "model.safetensors.index.json").model, model)


def test_a_part_that_is_missing_is_named(cache, tmp_path, hub):
    with pytest.raises(UserError, match=r"names model-00002-of-00003\.safetensors, which could not be fetched"):
        load(None, "hf:someone/lost")
    for name, content in hub.files["someone/lost"].items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"1 of its 3 files are not in its folder: model-00002-of-00003\.safetensors"):
        load(None, tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(UserError, match="its files do not hold classifier"):
        load(None, tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(UserError, match="names files outside its folder"):
        load(None, tmp_path)
    index.write_text('{"weight_map"')
    with pytest.raises(UserError, match="is not an index of weights"):
        load(None, tmp_path)


def test_a_repository_of_authors_and_a_file_in_one(cache):
    """Both are found and read; they hold a small model, which their names do not mean."""
    with pytest.raises(UserError, match="holds a model of another size: width 48"):
        load("pe_spatial_ti16", "hf:someone/PE-Tiny")
    with pytest.raises(UserError, match="holds a model of another size: width 48"):
        load("vit_ti16", "hf:someone/jax/augreg/Ti_16.npz")
    with pytest.raises(UserError, match=r"holds none of model\.safetensors, .* Name the file, hf:someone/jax/FILE"):
        load("vit_ti16", "hf:someone/jax")
    with pytest.raises(UserError, match=r"hf:someone/jax/README\.md: weights are read from"):
        load("vit_ti16", "hf:someone/jax/README.md")


def test_who_may_not_have_it_is_told_how_to_get_it(cache):
    with pytest.raises(UserError, match=r"accept its terms\. Do so at https://huggingface\.co/someone/gated, then log"):
        load("dinov3_s16", "hf:someone/gated")
    with pytest.raises(UserError, match="the Hub has no such public repository"):
        load("dinov3_s16", "hf:someone/nothing")


def test_timms_weights_come_with_timms_preprocessing(cache, hub, monkeypatch):
    """And from the cache alone; `hf:timm/NAME` is the same."""
    other, x = hub.timm, images(64, 96)
    answers = []
    for source in ("timm:vit_tiny_patch16_224", f"hf:timm/{TIMM}"):
        answers.append(vit.create("vit_ti16", weights=source))
        offline(monkeypatch)
    with torch.inference_mode():
        features = [answer.forward_features(x).patches for answer in answers]
        native = images(224, 224)
        assert error(answers[0](native), other(native)) < 1e-5
    assert all(torch.equal(features[0], found) for found in features)


def test_timms_names_and_tags_are_checked(cache):
    with pytest.raises(UserError, match='Did you mean "vit_small_patch16_224'):
        load(None, "timm:vit_smal_patch16_224")
    with pytest.raises(UserError, match=r'no weights .* Did you mean "vit_tiny_patch16_224\.augreg_in21k"\? It has'):
        load(None, "timm:vit_tiny_patch16_224.augreg_in21")
    with pytest.raises(UserError, match="has the model 'naflexvit_base_patch16_map', but no weights for it"):
        load(None, "timm:naflexvit_base_patch16_map")


@pytest.mark.parametrize("how", ["switched off", pytest.param("unreachable", marks=pytest.mark.slow)])
def test_without_a_network_it_is_said_what_to_put_where(cache, monkeypatch, how):
    if how == "switched off":
        offline(monkeypatch)
    else:
        ask(monkeypatch, "http://127.0.0.1:9")
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # it tries five times
    for source, repo, files in (
        ("hf:facebook/dinov2-small", "facebook/dinov2-small", "model.safetensors and config.json"),
        ("timm:vit_tiny_patch16_224", f"timm/{TIMM}", "model.safetensors"),
        ("hf:someone/jax/augreg/Ti_16.npz", "someone/jax", "augreg/Ti_16.npz"),
    ):
        with pytest.raises(UserError) as caught:
            load("dinov2_s14" if "dino" in source else "vit_ti16", source)
        told = str(caught.value)
        assert told.startswith(f"{source} could not be fetched and is not in the cache: ")
        assert f"download {files} from https://huggingface.co/{repo} on another machine" in told
        assert f"to {cache}/models--{repo.replace('/', '--')}." in told
        assert len(told) < 900 and "\n" not in told


def test_every_source_of_the_registry_is_one_that_timm_has():
    """Without a network, the repositories of Hugging Face's can only be looked at for their form."""
    weights = set(timm.list_pretrained())
    bare = {name.partition(".")[0] for name in weights}
    for row in MODELS.values():
        for source in row.sources:
            kind, _, name = source.partition(":")
            assert name in weights or name in bare if kind == "timm" else name.count("/") == 1, source


def test_the_registry_prepares_images_as_timm_does():
    for row in MODELS.values():
        if row.timm and not row.name.startswith("naflex"):
            config, own = timm.models.get_pretrained_cfg(row.timm), row.preprocess
            found = (config.mean, config.std, config.crop_pct, config.interpolation)
            assert found == (own.mean, own.std, own.crop, own.interpolation), row.name
            assert {"center": "crop", "squash": "squash"}[config.crop_mode] == own.resize, row.name
