"""What a detector can be started from, and what is said about it."""

import argparse
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import vit
from vit.detector import PRESETS, Detector, DetectorConfig, detector_changed
from vit.detector.backbone import into_windows, out_of_windows, tapped_maps
from vit.detector.cost import detector_flops
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import Classifier
from vit.model.config import EncoderConfig, Size
from vit.model.encoder import Encoder
from vit.pretrained.create import DETECTORS, create
from vit.pretrained.layouts import dino as dino_layouts
from vit.pretrained.layouts import timm as timm_layouts
from vit.pretrained.layouts.rules import write
from vit.pretrained.load_detector import begin, create_detector, on_encoder
from vit.pretrained.registry import find as registry
from vit.pretrained.registry.detectors import PUBLIC
from vit.runs.checkpoint import save_checkpoint
from vit.tasks.detection.build import begin as begin_recipe
from vit.tasks.detection.recipe import Recipe

ENCODER = EncoderConfig(
    24, 4, 2, 48, patch_size=16, image_size=(64, 64), class_token=False, position_resize="plain", qkv_bias="qv",
    layer_scale=0.1, final_norm=False,
)  # fmt: skip
TINY = DetectorConfig(
    ENCODER, num_classes=7, taps=(2, 4), windows=2, global_blocks=(1, 3), neck_norm="batchnorm", neck_eps=1e-5,
    neck_blocks=1, width=32, layers=2, heads=2, sampling_heads=4, mlp=48, queries=10, groups=2,
)  # fmt: skip


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models under two public names."""
    monkeypatch.setitem(PRESETS, "lwdetr_tiny", TINY)
    monkeypatch.setitem(PRESETS, "lwdetr_small", replace(TINY, layers=1))


def randomized(config: DetectorConfig) -> Detector:
    torch.manual_seed(0)
    model = Detector(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    return model.eval()


AS_LWDETR = [
    (r"encoder\.blocks\.(\d+)\.ls(\d)\.gamma", r"backbone.0.encoder.blocks.\1.gamma_\2"),
    (r"encoder\.(.+)", r"backbone.0.encoder.\1"),
    (r"decoder\.layers\.(\d+)\.attn\.qkv\.(\w+)", r"transformer.decoder.layers.\1.self_attn.in_proj_\2"),
    (r"decoder\.layers\.(\d+)\.attn\.proj\.(\w+)", r"transformer.decoder.layers.\1.self_attn.out_proj.\2"),
    (r"decoder\.layers\.(\d+)\.cross\.offsets\.(\w+)", r"transformer.decoder.layers.\1.cross_attn.sampling_offsets.\2"),
    (
        r"decoder\.layers\.(\d+)\.cross\.weights\.(\w+)",
        r"transformer.decoder.layers.\1.cross_attn.attention_weights.\2",
    ),
    (r"decoder\.layers\.(\d+)\.cross\.value\.(\w+)", r"transformer.decoder.layers.\1.cross_attn.value_proj.\2"),
    (r"decoder\.layers\.(\d+)\.cross\.proj\.(\w+)", r"transformer.decoder.layers.\1.cross_attn.output_proj.\2"),
    (r"decoder\.layers\.(\d+)\.mlp\.fc(\d)\.(\w+)", r"transformer.decoder.layers.\1.linear\2.\3"),
    (r"decoder\.position\.(.+)", r"transformer.decoder.ref_point_head.\1"),
    (r"decoder\.(.+)", r"transformer.decoder.\1"),
    (r"selection\.(\d+)\.(proj|norm)\.(\w+)", r"transformer.enc_output_\2.\1.\3"),
    (r"selection\.(\d+)\.class_head\.(\w+)", r"transformer.enc_out_class_embed.\1.\2"),
    (r"selection\.(\d+)\.box_head\.(.+)", r"transformer.enc_out_bbox_embed.\1.\2"),
    (r"neck\.scales\.0\.mix\.enter\.(.+)", r"backbone.0.projector.stages.0.0.cv1.\1"),
    (r"neck\.scales\.0\.mix\.leave\.(.+)", r"backbone.0.projector.stages.0.0.cv2.\1"),
    (r"neck\.scales\.0\.mix\.chain\.(\d)\.0\.(.+)", r"backbone.0.projector.stages.0.0.m.\1.cv1.\2"),
    (r"neck\.scales\.0\.mix\.chain\.(\d)\.1\.(.+)", r"backbone.0.projector.stages.0.0.m.\1.cv2.\2"),
    (r"neck\.scales\.0\.norm\.(\w+)", r"backbone.0.projector.stages.0.1.\1"),
    (r"query_box", "refpoint_embed.weight"),
    (r"query", "query_feat.weight"),
    (r"class_head\.(\w+)", r"class_embed.\1"),
    (r"box_head\.(.+)", r"bbox_embed.\1"),
]


def as_lwdetr(model: Detector) -> dict[str, Tensor]:
    """The weights as LW-DETR's repository writes them."""
    written = {}
    for name, tensor in model.state_dict().items():
        pattern, new = next((p, n) for p, n in AS_LWDETR if re.fullmatch(p, name))
        theirs = re.sub(pattern, new, name).replace("enc_output_proj", "enc_output")
        if "projector" in theirs:
            theirs = theirs.replace(".norm.", ".bn.")
        if name == "encoder.patch_embed.proj.weight":
            tensor = tensor.unflatten(1, (3, 16, 16))
        if name == "encoder.pos_embed":  # the place of the class token it was pretrained with
            tensor = torch.cat([torch.zeros(1, 1, 24), tensor], dim=1)
        written[theirs] = tensor.contiguous()
    return written


IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def same(a: Detector, b: Detector) -> bool:
    with torch.no_grad():
        one, two = a.eval()(IMAGES).last, b.eval()(IMAGES).last
    return torch.allclose(one.logits, two.logits, atol=1e-5) and torch.allclose(one.boxes, two.boxes, atol=1e-6)


@pytest.fixture
def public(tmp_path: Path, presets: None) -> tuple[Detector, Path]:
    """A detector, and its weights as LW-DETR's training script saves them."""
    model = randomized(TINY)
    arguments = argparse.Namespace(lr=1e-4, encoder="vit_tiny", out_feature_indexes=[2, 4])
    torch.save({"model": as_lwdetr(model), "args": arguments, "epoch": 59}, tmp_path / "LWDETR_tiny_60e_coco.pth")
    return model, tmp_path / "LWDETR_tiny_60e_coco.pth"


def test_public_weights_by_name(public: tuple[Detector, Path], caplog: pytest.LogCaptureFixture):
    model, file = public
    caplog.set_level(logging.WARNING, logger="vitral")
    made = vit.create("lwdetr_tiny", weights=file)
    assert same(made, model) and not made.training and made.config.num_classes == 7
    assert caplog.text == ""
    made = vit.create("lwdetr_tiny", weights=file, num_classes=2)
    assert made.class_head.out_features == 2 and made.selection[1].class_head.out_features == 2  # pyright: ignore
    assert caplog.text.count("New class heads for 2 classes (the weights have 7)") == 1


def test_every_form_of_a_file(public: tuple[Detector, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, _ = public
    tensors = as_lwdetr(model)
    save_file(tensors, tmp_path / "plain.safetensors")
    wrapped = {f"model.{name}": tensor.half() for name, tensor in tensors.items()} | {"criterion.x": torch.ones(2)}
    torch.save({"state_dict": wrapped}, tmp_path / "lightning.ckpt")
    folder = tmp_path / "saved"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "lw_detr", "d_model": 32}')
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name, **options: str(folder / name))
    for source in (tmp_path / "plain.safetensors", folder, "hf:somebody/lwdetr"):
        assert same(vit.create("lwdetr_tiny", weights=source), model), source
    assert vit.create("lwdetr_tiny", weights=tmp_path / "lightning.ckpt").query.dtype == torch.float32


def test_a_file_says_itself_which_detector_it_is(public: tuple[Detector, Path]):
    model, file = public
    start = begin(weights=file)
    assert start.config == model.config and start.knows_boxes
    assert start.preprocess == Preprocess((640, 640), "squash", 1.0, "bilinear")
    with pytest.raises(UserError, match="holds lwdetr_tiny, not lwdetr_small"):
        begin("lwdetr_small", weights=file)
    with pytest.raises(UserError, match='Did you mean "lwdetr_tiny"'):
        begin("lwdetr_tini", weights=file)


def test_queries_groups_and_positions_are_fitted(public: tuple[Detector, Path]):
    model, file = public
    made, notes = create_detector("lwdetr_tiny", weights=file, groups=1, queries=6, image_size=(128, 64))
    assert made.config.encoder.image_size == (128, 64) and made.config.encoder.grid == (8, 4)
    assert torch.equal(made.query, model.query[:6]) and len(made.selection) == 1
    told = "; ".join(notes)
    assert (
        "Positions are resized from 64x64 to 128x64 pixels" in told
        and "1 x 6 queries (the weights have 2 x 10)" in told
    )
    images = torch.randn(1, 3, 128, 64)
    with torch.no_grad():
        six = made.eval()(images).last
        all_ten = detector_like(model, queries=6)(images).last  # resized at run time instead
    assert torch.allclose(six.logits, all_ten.logits, atol=1e-5)
    more, _ = create_detector("lwdetr_tiny", weights=file, groups=3, queries=12)
    assert torch.equal(more.query.unflatten(0, (3, 12))[:2, :10], model.query.unflatten(0, (2, 10)))
    with pytest.raises(UserError, match=r"80x64 pixels.*multiples of 32. The nearest size is 64x64"):
        create_detector("lwdetr_tiny", weights=file, image_size=(80, 64))


def detector_like(model: Detector, queries: int) -> Detector:
    other = Detector(replace(model.config, queries=queries, groups=1)).eval()
    state = {name: model.state_dict()[name] for name in other.state_dict()}
    other.load_state_dict({**state, "query": model.query[:queries], "query_box": model.query_box[:queries]})
    return other


def damaged(tmp_path: Path, content: object) -> str:
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError) as caught:
        vit.create("lwdetr_tiny", weights=tmp_path / "bad.pth")
    assert "bad.pth" in str(caught.value) and len(str(caught.value)) < 900
    return str(caught.value)


class Runs:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("it ran",)


def test_bad_files_are_named(tmp_path: Path, presets: None, capsys: pytest.CaptureFixture[str]):
    whole = as_lwdetr(randomized(TINY))

    def without(part: str) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in whole.items() if part not in name}

    assert "missing: box_head.layers.0.bias" in damaged(tmp_path, without("bbox_embed.layers.0.bias"))
    assert "is incomplete: it lacks query" in damaged(tmp_path, without("query_feat"))
    assert "unknown tensors: segmentation_head.x" in damaged(tmp_path, whole | {"segmentation_head.x": Tensor()})
    assert "class_embed" not in damaged(tmp_path, {**whole, "bbox_embed.layers.2.bias": torch.zeros(5)})
    assert "name it: --encoder" in damaged(tmp_path, {"blocks.0.norm1.weight": torch.zeros(3)})
    deeper = as_lwdetr(randomized(detector_changed(TINY, {"layers": 5})))
    assert "none of the detectors rfdetr_nano" in (told := damaged(tmp_path, deeper)) and "decoder layers 5" in told
    odd = {**whole, "backbone.0.encoder.pos_embed": torch.zeros(1, 12, 24)}
    assert "11 positions do not form a square grid" in damaged(tmp_path, odd)
    assert "would run code. It was refused" in damaged(tmp_path, {"model": Runs()})
    assert "does not hold a dictionary of tensors" in damaged(tmp_path, [1, 2])
    assert "it ran" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"nowhere\.pth does not exist"):
        vit.create("lwdetr_tiny", weights=tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match="No detector is called 'rfdetr_nanno'"):
        vit.create("rfdetr_nanno")
    with pytest.raises(UserError, match="no field 'querys'"):
        vit.create("lwdetr_tiny", querys=3)


def test_a_trusted_pickle_is_read(tmp_path: Path, presets: None, capsys: pytest.CaptureFixture[str]):
    model = randomized(TINY)
    torch.save({"model": as_lwdetr(model), "args": Runs()}, tmp_path / "theirs.pth")
    recipe = Recipe(data="x", weights=str(tmp_path / "theirs.pth"))
    with pytest.raises(UserError, match="pass --trust-pickle"):
        begin_recipe(recipe)
    assert capsys.readouterr().out == ""
    start = begin_recipe(replace(recipe, trust_pickle=True))
    assert same(start.build()[0], model) and capsys.readouterr().out == "it ran\n"


# A name of the registry, a layout of its files, and fields that make it small.
SMALL = {"size": Size(48, 4, 2, 96), "image_size": 64}
FAMILIES = {
    "dinov2_s14": (dino_layouts.DINOV2, {"image_size": 56}),
    "dinov3_s16": (timm_layouts.TIMM_EVA, {}),
    "mae_b16": (timm_layouts.MAE, {}),
}


def encoder_file(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Classifier, Path]:
    layout, fields = FAMILIES[name]
    row = replace(registry.find(name), **{**SMALL, **fields})
    monkeypatch.setitem(registry.MODELS, name, row)
    torch.manual_seed(1)
    model = Classifier(row.config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    save_file(write(layout, model.config, dict(model.state_dict())), folder / f"{name}.safetensors")
    return model, folder / f"{name}.safetensors"


@pytest.mark.parametrize("name", FAMILIES)
def test_any_encoder_under_a_new_head(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last map is the encoder's own output."""
    classifier, file = encoder_file(name, tmp_path, monkeypatch)
    size = (8 * classifier.config.encoder.patch_size, 4 * classifier.config.encoder.patch_size)
    made, notes = create_detector("detector_nano", weights=file, encoder=name, num_classes=3, image_size=size)
    c = made.config
    assert (c.taps, c.windows, c.tap_norm, c.num_classes) == ((1, 2, 3, 4), 1, True, 3)
    assert not c.stem_map  # these stems are linear
    assert (
        "New detector_nano head on the encoder of" in notes[0]
        and "with feature maps after blocks 1, 2, 3, 4" in notes[0]
    )
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        tokens = classifier.encoder(images)
        last = tapped_maps(made.encoder, images, c)[-1]
        assert torch.allclose(last.flatten(2).transpose(1, 2), tokens.patches, atol=1e-5)
        out = made.eval()(images).last
    assert out.boxes.isfinite().all() and out.logits.shape[-1] == 3
    start = begin("rfdetr_nano", weights=file, encoder=name)
    assert start.config.windows == 2 and start.config.global_blocks == (1, 2, 3)
    assert " in 2x2 windows" in start.notes[0] and start.config.divisor == 2 * c.encoder.patch_size
    assert start.preprocess is not None and start.preprocess.mean == (0.485, 0.456, 0.406)


def test_rotary_positions_in_windows():
    """A window alone, every patch with its place in the whole image, gives what the windowed blocks give."""
    for mixed in (False, True):
        config = EncoderConfig(
            32, 2, 2, 64, patch_size=8, image_size=(64, 64), positions="none", rope=True, rope_mixed=mixed,
            rope_places="grid", registers=2,
        )  # fmt: skip
        torch.manual_seed(0)
        encoder = Encoder(config).eval()
        windowed = DetectorConfig(encoder=config, taps=(1, 2), windows=2, global_blocks=(1,), width=32, queries=9)
        images = torch.randn(2, 3, 64, 32)
        with torch.no_grad():
            first, second = tapped_maps(encoder, images, windowed)
            x, grid = encoder.embed(images)
            ropes = encoder.ropes(grid, x.device)
            parts = into_windows(x, grid, 3, 2).unflatten(0, (2, 4))
            done = []
            for w in range(4):  # by hand, window by window
                place = torch.arange(4 * 8).view(2, 4, 2, 2).transpose(1, 2).reshape(4, 8)[w] + 3
                rows = torch.cat([torch.arange(3), place])
                assert ropes[0] is not None
                own = (ropes[0][0][..., rows, :], ropes[0][1][..., rows, :])
                done.append(encoder.blocks[0](parts[:, w], rope=own))
            by_hand = torch.stack(done, 1).flatten(0, 1)
            assert torch.allclose(out_of_windows(by_hand, grid, 3, 2), first, atol=1e-5)
            # The second block sees all windows, each with its own prefix tokens.
            order = torch.cat([torch.cat([torch.arange(3), places + 3]) for places in
                               torch.arange(32).view(2, 4, 2, 2).transpose(1, 2).reshape(4, 8)])  # fmt: skip
            assert ropes[1] is not None
            rope = (ropes[1][0][..., order, :], ropes[1][1][..., order, :])
            whole = encoder.blocks[1](by_hand.unflatten(0, (2, 4)).flatten(1, 2), rope=rope)
            expected = out_of_windows(whole.unflatten(1, (4, -1)).flatten(0, 1), grid, 3, 2)
            assert torch.allclose(expected, second, atol=1e-5)


def test_patches_of_14_pixels_are_kept_or_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    classifier, file = encoder_file("dinov2_s14", tmp_path, monkeypatch)
    kept, _ = create_detector("rfdetr_nano", weights=file, encoder="dinov2_s14", groups=1)
    assert kept.config.divisor == 28
    made, notes = create_detector("rfdetr_nano", weights=file, encoder="dinov2_s14", patch_size=16, groups=1)
    assert made.config.divisor == 32 and made.config.encoder.image_size == (64, 64)
    assert any("patch kernel is resized from 14 to 16 pixels (pseudo-inverse)" in note for note in notes)
    # What the pseudo-inverse promises: an enlarged patch gives the token that the patch gave.
    patches = torch.randn(5, 3, 14, 14)
    larger = torch.nn.functional.interpolate(patches, (16, 16), mode="bicubic", antialias=True)
    with torch.no_grad():
        tokens, again = classifier.encoder.patch_embed(patches), made.encoder.patch_embed(larger)
    assert torch.allclose(tokens, again, atol=1e-4)


def test_rfdetr_is_its_preset_on_dinov2():
    made = on_encoder(PRESETS["rfdetr_small"], PRESETS["rfdetr_small"].encoder)
    assert made == PRESETS["rfdetr_small"]


def test_relative_positions_have_no_windows():
    beit = registry.find("beit_b16").config.encoder
    assert on_encoder(PRESETS["lwdetr_tiny"], beit).windows == 1
    with pytest.raises(UserError, match="relative positions do not work in windows"):
        replace(PRESETS["lwdetr_tiny"], encoder=replace(beit, width=192, depth=6, heads=3))


def checkpoint(folder: Path, model: Classifier | Detector, classes: tuple[str, ...]) -> Path:
    detects = isinstance(model, Detector)
    preprocess = Preprocess((64, 64), "letterbox", interpolation="bilinear", mean=(0.1, 0.2, 0.3))
    config = {
        "task": "detection" if detects else "classification", "model": model.config.to_dict(),
        "classes": list(classes), "preprocess": preprocess.to_dict(), "multilabel": False, "temperature": None,
    }  # fmt: skip
    save_checkpoint(folder / "checkpoints" / "best", model.state_dict(), config)
    return folder


def test_from_our_own_runs(tmp_path: Path):
    """A detector's run tells its geometry, whatever the name; a classifier's run gives its encoder."""
    model = randomized(TINY)
    run = checkpoint(tmp_path / "boxes", model, tuple("abcdefg"))
    start = begin("rfdetr_nano", weights=run)
    assert start.classes == tuple("abcdefg") and start.config == TINY
    assert start.preprocess is not None and start.preprocess.mean == (0.1, 0.2, 0.3)
    assert same(start.build()[0], model)
    again, notes = start.build(7, new_head=True)
    assert not torch.equal(again.class_head.weight, model.class_head.weight)
    assert notes == ["New class heads for 7 classes (the weights have 7)."]
    with pytest.raises(UserError, match=r"is a detector with its own encoder\. Leave out --encoder dinov2_s14"):
        begin(weights=run, encoder="dinov2_s14")
    torch.manual_seed(0)
    classifier = create("vit_nano8_conv_mean", num_classes=3, image_size=32)
    run = checkpoint(tmp_path / "classes", classifier, ("x", "y", "z"))
    start = begin(weights=run)
    assert not start.knows_boxes and start.config.scales == (2.0,)
    made, _ = start.build(2, 64)
    encoders = made.encoder.state_dict(), classifier.encoder.state_dict()
    assert torch.equal(*(encoder["blocks.3.attn.qkv.weight"] for encoder in encoders))
    assert made.config.encoder.image_size == (64, 64) and made.config.divisor == 8
    assert made.config.stem_map  # a convolutional stem's own map is kept beside the taps


def test_a_new_encoder_of_another_kind():
    made, notes = create_detector("detector_nano", encoder="vit_ti16", num_classes=2, image_size=64)
    assert notes == [] and made.config.encoder.width == 192 and made.config.width == 128
    assert vit.create("rfdetr_nano", encoder="vit_ti16", groups=1, drop_path=0.2).config.encoder.drop_path == 0.2


def test_names_and_listing():
    assert all(name.startswith(DETECTORS) for name in PRESETS)
    assert list(PUBLIC) == [name for name in PRESETS if name != "detector_nano"]
    listed = {m.name: m for m in vit.models("*detr_*")}
    assert list(listed) == list(PUBLIC)
    nano = listed["rfdetr_nano"]
    assert (nano.family, nano.image_size, nano.license) == ("rfdetr", 384, "Apache-2.0")
    assert nano.sources == ("hf:Roboflow/rf-detr-nano",) and 30e6 < nano.parameters < 31e6
    assert vit.models("detector_nano") == []


@pytest.mark.parametrize("name", ["rfdetr_nano", "lwdetr_xlarge", "squeezed"])
def test_flops_are_counted_as_torch_counts_them(name: str):
    from torch.utils.flop_counter import FlopCounterMode

    config = replace(TINY, scales=(2.0, 0.5), neck_squeeze=True) if name == "squeezed" else PRESETS[name]
    config = replace(config, groups=1, layers=1)
    side = 4 * config.divisor
    with torch.device("meta"):
        model = Detector(config).eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, side, side))
    assert abs(counter.get_total_flops() / detector_flops(config, side) - 1) < 1e-6


def test_a_classifier_that_was_trained_on_some_of_its_patches_gives_its_encoder(tmp_path: Path):
    fields = {"width": 24, "depth": 4, "heads": 2, "mlp": 48, "patch_dropout": 0.5}
    model = create("vit_nano16", num_classes=2, image_size=64, **fields)
    config = {"task": "classification", "model": model.config.to_dict(), "classes": ["a", "b"]}
    save_checkpoint(tmp_path / "c", model.state_dict(), {**config, "preprocess": Preprocess((64, 64)).to_dict()})
    assert begin("lwdetr_tiny", weights=tmp_path / "c").config.encoder.patch_dropout == 0
