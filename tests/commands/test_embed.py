"""`vitral embed`: what is in the file, against the model itself, and every mistake."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vit
import vit.__main__ as cli
from vit.errors import UserError
from vit.images.preprocess import decode
from vit.tasks.classification.features import write_features


def embed(*words: object) -> int:
    return cli.command(["embed", *map(str, words), "--device", "cpu"])


def read(file: Path) -> tuple[np.ndarray, list[str], dict]:
    with np.load(file, allow_pickle=False) as arrays:
        assert set(arrays.files) == {"features", "files", "made"}
        assert arrays["features"].dtype == np.float32 and arrays["files"].dtype.kind == "U"
        return arrays["features"], arrays["files"].tolist(), json.loads(str(arrays["made"]))


def by_hand(trained: SimpleNamespace, files: list[Path]) -> torch.Tensor:
    preprocess = vit.Preprocess.from_dict(trained.config["preprocess"])
    return preprocess.tensor(np.stack([preprocess.pixels(decode(file)) for file in files]))


def test_pooled_features_are_what_the_head_sees(trained: SimpleNamespace, tmp_path: Path, capsys):
    folder, out = trained.photos / "test" / "grün", tmp_path / "features.npz"
    assert embed(trained.run, folder, "--out", out, "--batch-size", 2) == 0
    features, files, made = read(out)
    assert files == [str(folder / f"tile {i}.png") for i in range(5)]
    assert features.shape == (5, 32)
    with torch.no_grad():
        images = by_hand(trained, sorted(folder.iterdir()))
        torch.testing.assert_close(trained.model.head(torch.from_numpy(features)), trained.model(images))
    assert made["weights"] == str(trained.run) and made["features"] == "pooled"
    assert made["vitral"] == vit.__version__
    assert made["preprocess"] == trained.config["preprocess"]
    assert made["model"] == json.loads(json.dumps(trained.config["model"]))
    assert f"5 images -> {out}" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["features.npz"]


def test_patch_features_keep_the_grid(trained: SimpleNamespace, tmp_path: Path):
    file, out = trained.photos / "test" / "grün" / "tile 3.png", tmp_path / "features.npz"
    assert embed(trained.run, file, "--out", out, "--features", "patches", "--image-size", 24) == 0
    features, _, made = read(out)
    assert features.shape == (1, 3, 3, 32) and made["preprocess"]["size"] == [24, 24]
    model = vit.create("", weights=trained.run, image_size=24).eval()
    preprocess = vit.Preprocess.from_dict(made["preprocess"])
    with torch.no_grad():
        tokens = model.forward_features(preprocess.tensor(preprocess.pixels(decode(file))[None]))
    torch.testing.assert_close(torch.from_numpy(features[0, 1, 2]), tokens.patches[0, 1 * 3 + 2])


def test_public_weights(trained: SimpleNamespace, tmp_path: Path, capsys):
    """A file of a public family: timm's names, and what was changed is said on stderr."""
    weights = tmp_path / "deit.safetensors"
    assert cli.command(["convert", str(trained.run), str(weights), "--to", "timm"]) == 0
    file, out = trained.photos / "test" / "grün" / "tile 0.png", tmp_path / "features.npz"
    with pytest.raises(UserError, match="name the model of these weights"):
        embed(weights, file, "--out", out)
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("deit_tiny_patch16_224", num_classes=7).eval()
    save_file(theirs.state_dict(), weights)
    assert embed(weights, file, "--out", out, "--model", "deit_ti16", "--image-size", 64) == 0
    features, _, made = read(out)
    assert features.shape == (1, 192) and made["name"] == "deit_ti16"
    assert "Positions are resized from 224x224 to 64x64" in capsys.readouterr().err
    theirs.set_input_size((64, 64))
    preprocess = vit.Preprocess.from_dict(made["preprocess"])
    with torch.no_grad():
        expected = theirs.forward_head(
            theirs.forward_features(preprocess.tensor(preprocess.pixels(decode(file))[None])), pre_logits=True
        )
    torch.testing.assert_close(torch.from_numpy(features), expected, rtol=1e-4, atol=1e-5)


def test_unreadable_images_are_named_and_left_out(trained: SimpleNamespace, tmp_path: Path, capsys, one_thread):
    good = trained.photos / "test" / "grün" / "tile 0.png"
    broken, out = tmp_path / "broken.png", tmp_path / "features.npz"
    broken.write_bytes(good.read_bytes()[:300])
    assert embed(trained.run, good, broken, good, "--out", out) == 1
    printed = capsys.readouterr()
    assert str(broken) in printed.err and "1 of 3 images could not be read" in printed.err
    features, files, _ = read(out)
    assert files == [str(good), str(good)] and np.array_equal(features[0], features[1])
    out.unlink()
    assert embed(trained.run, broken, "--out", out) == 2
    assert not out.exists() and "images ->" not in capsys.readouterr().out


def test_mistakes(trained: SimpleNamespace, tmp_path: Path, monkeypatch):
    image, out = trained.photos / "test" / "grün" / "tile 0.png", tmp_path / "features.npz"
    for words, message in (
        ((trained.run, image, "--out", tmp_path / "a.npy"), r"written as \.npz\. Call it a\.npz"),
        ((trained.run, image, "--out", tmp_path / "no" / "a.npz"), "There is no folder .*Make it first"),
        ((trained.run, "--out", out), "No images given"),
        ((trained.run, str(image)[:-1], "--out", out), 'Did you mean "tile 0.png"'),
        ((trained.run.with_name("colour"), image, "--out", out), 'Did you mean "colors"'),
        ((tmp_path / "no.onnx", image, "--out", out, "--model", "dinov2_s14"), "does not exist"),
        ((trained.run, image, "--out", out, "--batch-size", 0), "at least 1"),
        ((trained.run, image, "--out", out, "--image-size", 30), "not a multiple of the patch"),
    ):
        with pytest.raises(UserError, match=message):
            embed(*words)
    for words in ((trained.run, image), (trained.run, image, "--out", out, "--features", "pooling")):
        with pytest.raises(UserError, match=r"needs --out|takes pooled or patches"):
            embed(*words)
    assert os.listdir(tmp_path) == []


def test_a_failure_keeps_the_former_file(tmp_path: Path):
    """Whole or not at all: neither a half-written file nor a temporary one is left."""
    out = tmp_path / "features.npz"
    rows = [("a.png", torch.arange(4.0)), ("ü \udcff.png", torch.ones(4))]
    assert write_features(out, rows, {"k": "ü"}) == (2, 4)
    before = out.read_bytes()

    def stops():
        yield rows[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(out, stops(), {})
    assert write_features(out, [], {}) == ()
    assert out.read_bytes() == before and os.listdir(tmp_path) == ["features.npz"]
    features, files, made = read(out)
    assert files == ["a.png", "ü \udcff.png"] and made == {"k": "ü"}
    assert np.array_equal(features, [[0, 1, 2, 3], [1, 1, 1, 1]])
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError, match=r"folder\.npz: cannot be written"):
        write_features(tmp_path / "folder.npz", rows, {})


def test_a_diverged_model_is_told(trained: SimpleNamespace, tmp_path: Path, monkeypatch):
    from vit.tasks.classification import features

    def diverged(*arguments, **options):
        encoder, notes = whole(*arguments, **options)
        encoder.model.encoder.norm.bias.data.fill_(float("nan"))
        return encoder, notes

    whole = features.open_encoder
    monkeypatch.setattr(features, "open_encoder", diverged)
    with pytest.raises(UserError, match=r"NaN or infinite values for .*tile 0\.png"):
        embed(trained.run, trained.photos / "test" / "grün" / "tile 0.png", "--out", tmp_path / "a.npz")
    assert os.listdir(tmp_path) == []
