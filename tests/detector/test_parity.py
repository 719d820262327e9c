"""The same random weights in a public detector and in ours give the same boxes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vit
from vit.detector import PRESETS, Detector, DetectorConfig, detector_preset
from vit.errors import UserError
from vit.model.config import EncoderConfig
from vit.pretrained.layouts.detectors import convert
from vit.runs.tensors import fit_tensors

SMALL = {"num_classes": 7, "width": 64, "layers": 2, "heads": 4, "sampling_heads": 8, "mlp": 96, "queries": 20}


def rfdetr() -> DetectorConfig:
    preset = detector_preset("rfdetr_nano")
    encoder = replace(preset.encoder, image_size=(128, 128))
    return replace(preset, encoder=encoder, num_classes=11, queries=40, groups=2)


def hugging_rfdetr() -> DetectorConfig:
    encoder = EncoderConfig(48, 4, 3, 192, patch_size=16, image_size=(96, 96), prefix_positions=1, layer_scale=1.0)
    # The norms of transformers' projector have eps 1e-5 where the rfdetr package has 1e-6.
    return DetectorConfig(
        encoder, taps=(2, 3, 4), tap_norm=True, windows=2, global_blocks=(2, 3), neck_eps=1e-5, points=2, groups=2,
        **SMALL,
    )  # fmt: skip


def lwdetr(scales: tuple[float, ...], width: int = 48) -> DetectorConfig:
    encoder = EncoderConfig(
        width, 4, 3, 4 * width, patch_size=16, image_size=(96, 96), class_token=False, position_resize="plain",
        qkv_bias="qv", layer_scale=0.1, final_norm=False,
    )  # fmt: skip
    return DetectorConfig(
        encoder, taps=(2, 4), windows=2, global_blocks=(1, 3), neck_norm="batchnorm", neck_eps=1e-5,
        neck_squeeze=width > 512, scales=scales, points=4, groups=2, **SMALL,
    )  # fmt: skip


CASES = {
    "rfdetr": (rfdetr, "rfdetr"),
    "hugging_rfdetr": (hugging_rfdetr, "transformers"),
    "hugging_lwdetr": (lambda: lwdetr((2.0, 0.5)), "transformers"),
    "lwdetr_single": (lambda: lwdetr((1.0,)), "transformers"),
    "lwdetr_squeezed": (lambda: lwdetr((2.0,), 516), "transformers"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_same_weights_same_answers(
    case: str, peer: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, package = CASES[case]
    peer("peers.py", case, tmp_path, needs=package)
    model = Detector(config()).eval()
    tensors = convert(load_file(tmp_path / "weights.safetensors"), case)
    fit_tensors(model, tensors, case)
    model.load_state_dict(tensors)
    name, saved = ("rfdetr_nano" if "rfdetr" in case else "lwdetr_tiny"), tmp_path / "saved"
    monkeypatch.setitem(PRESETS, name, config())
    users = vit.create(name, weights=tmp_path / "weights.pth" if case == "rfdetr" else saved)
    assert all(torch.equal(tensor, users.state_dict()[key]) for key, tensor in model.state_dict().items())
    answers = load_file(tmp_path / "answers.safetensors")
    sizes = {name.split(".")[0] for name in answers}
    assert len(sizes) >= 2
    for size in sizes:
        with torch.no_grad():
            output = model(answers[f"{size}.images"])
        logits, boxes = answers[f"{size}.logits"], answers[f"{size}.boxes"]
        assert logits.std() > 0.1 and boxes.std() > 0.1  # answers that say something
        assert (output.last.logits - logits).abs().max() < 1e-4
        assert (output.last.boxes - boxes).abs().max() < 1e-5


def test_another_model_is_refused():
    with pytest.raises(UserError, match=r"x\.pth is not a supported detector"):
        convert({"conv1.weight": torch.zeros(1)}, "x.pth")
