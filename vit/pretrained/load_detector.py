"""A detector with given weights: those of a detector, or of a plain encoder under a new head.

There are two steps, since a caller must know the detector before it can choose the input size: `begin` reads the
weights and gives the config, `Start.build` makes the detector.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vit.detector.backbone import check_size
from vit.detector.config import DetectorConfig, detector_changed, detector_preset
from vit.detector.model import Detector
from vit.errors import UserError, error_context
from vit.images.preprocess import Preprocess
from vit.model.config import EncoderConfig, changed
from vit.pretrained.files.fetch import is_remote
from vit.pretrained.load import RGB, is_public, load
from vit.pretrained.registry.detectors import read_detector
from vit.pretrained.registry.find import by_source, find
from vit.pretrained.resize_detector import refit_detector
from vit.runs.checkpoint import CONFIG, WEIGHTS, build_model, find_checkpoint, load_config
from vit.runs.tensors import fit_tensors, load_tensors

DEFAULT = "detector_nano"
TAPS = 4
"""Number of feature maps that are taken from a plain encoder."""


@dataclass(frozen=True)
class Start:
    """The weights and config that a detector starts from, before its classes and input size are chosen."""

    name: str
    """A description for messages."""
    config: DetectorConfig
    encoder: EncoderConfig
    """The encoder of the weights; `config.encoder` is the requested one."""
    tensors: dict[str, Tensor]
    """Under the names of `Detector`: all tensors, those of the encoder, or none."""
    source: str
    preprocess: Preprocess | None = None
    """The preprocessing that the weights were trained with."""
    classes: tuple[str, ...] = ()
    """The classes of the weights, if they are stored."""
    notes: tuple[str, ...] = ()

    @property
    def knows_boxes(self) -> bool:
        """Whether the weights are a detector's."""
        return "class_head.bias" in self.tensors

    def build(
        self, num_classes: int | None = None, image_size: int | tuple[int, int] | None = None, *, new_head: bool = False
    ) -> tuple[Detector, list[str]]:
        """The detector, and a note about each difference from the weights.

        num_classes: None keeps the number of the weights. image_size: (H, W), or the side of a square, that
        learned positions are resized to; the detector takes other sizes, too. new_head: new class heads even if their
        number fits. Raises UserError on an image size that does not divide, and on weights that do not fit.
        """
        encoder = self.config.encoder
        if image_size is not None:
            size = (image_size, image_size) if isinstance(image_size, int) else image_size
            check_size(size, self.config)
            encoder = replace(encoder, image_size=size)
        classes = self.config.num_classes if num_classes is None else num_classes
        model = Detector(replace(self.config, encoder=encoder, num_classes=classes))
        if not self.tensors:
            return model, list(self.notes)
        own: dict[str, Tensor] = model.state_dict()
        tensors, notes = refit_detector(self.tensors, self.encoder, own, model.config, new_head=new_head)
        if not self.knows_boxes:
            fit_tensors(model.encoder, {n.removeprefix("encoder."): t for n, t in tensors.items()}, self.source)
            tensors = {**own, **tensors}
        fit_tensors(model, tensors, self.source)
        model.load_state_dict(tensors)
        return model, [*self.notes, *notes]


def create_detector(
    name: str | None = None,
    *,
    weights: str | Path | None = None,
    encoder: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    trust_pickle: bool = False,
    **fields: Any,
) -> tuple[Detector, list[str]]:
    """`begin` and `Start.build` in one."""
    start = begin(name, weights=weights, encoder=encoder, trust_pickle=trust_pickle, **fields)
    return start.build(num_classes, image_size)


def begin(
    name: str | None = None,
    *,
    weights: str | Path | None = None,
    encoder: str | None = None,
    trust_pickle: bool = False,
    **fields: Any,
) -> Start:
    """Read the weights of a detector, or of an encoder that is to become one.

    name: of PRESETS; None means the detector of the weights, else DEFAULT.
    weights: a run or checkpoint folder of a detector or a classifier; or public weights, as a file, a folder of Hugging
    Face's, `timm:NAME` or `hf:OWNER/REPO`: a detector's or, with `encoder`, a plain ViT's.
    encoder: the public encoder (`vit.models()`) under the neck and decoder of `name`: that of `weights` if they are an
    encoder's; without weights, a new one.
    fields: of DetectorConfig (queries=100, groups=1) or of its encoder (drop_path=.1, patch_size=16).
    Raises UserError on an unknown name or field, and on weights of neither a detector nor an encoder.
    """
    preset = detector_preset(name or DEFAULT)
    inner = {key: fields.pop(key) for key in list(fields) if key in _INNER}
    if weights is None:
        config = preset if encoder is None else on_encoder(preset, find(encoder).config.encoder)
        config = _with(config, fields, inner)
        title = name or DEFAULT
        return Start(title if encoder is None else f"{title} on {encoder}", config, config.encoder, {}, "")
    source = str(weights)
    if is_public(source):
        if encoder is None and is_remote(source) and (row := by_source(source)) is not None:
            encoder = row.name
        if encoder is None:
            found = read_detector(name, source, trust_pickle=trust_pickle)
            config = _with(found.config, fields, inner)
            return Start(found.name, config, found.config.encoder, found.tensors, source, found.preprocess)
    else:
        folder = find_checkpoint(source)
        stored = load_config(folder)
        if stored.get("task") == "detection":
            if encoder is not None:
                raise UserError(f"{source} is a detector with its own encoder. Leave out --encoder {encoder}.")
            with error_context(folder / CONFIG):
                own = DetectorConfig.from_dict(stored["model"])
            preprocess, classes = Preprocess.from_dict(stored["preprocess"]), tuple(stored["classes"])
            tensors = load_tensors(folder / WEIGHTS)
            config = _with(own, fields, inner)
            return Start(source, config, own.encoder, tensors, str(folder), preprocess, classes)
    loaded = load(encoder, source, in_chans=RGB, trust_pickle=trust_pickle)
    old = loaded.model.config.encoder
    config = _with(on_encoder(preset, old), fields, inner)
    tensors = {f"encoder.{key}": tensor for key, tensor in loaded.model.encoder.state_dict().items()}
    if not config.tap_norm:
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("encoder.norm.")}
    taps = ", ".join(map(str, config.taps))
    windows = f" in {config.windows}x{config.windows} windows" if config.windows > 1 else ""
    note = f"New {name or DEFAULT} head on the encoder of {source}{windows}, with feature maps after blocks {taps}."
    title = f"{name or DEFAULT} on {encoder or source}"
    return Start(title, config, old, tensors, source, loaded.preprocess, notes=(note,))


def on_encoder(preset: DetectorConfig, encoder: EncoderConfig) -> DetectorConfig:
    """Neck and decoder of a preset on another encoder, as RF-DETR uses DINOv2 (Robinson et al. 2025): TAPS taps spread
    over the depth, each followed by a block that attends to the whole image if the preset has windows.

    The encoder keeps its patch size. Relative positions do not work in windows, and only a convolutional stem has a map
    of its own. Patch dropout is for classifiers and is turned off.
    """
    encoder = replace(encoder, patch_dropout=0.0)
    taps = sorted({round(encoder.depth * (i + 1) / TAPS) for i in range(TAPS)} - {0})
    windows = 1 if encoder.relative_positions else preset.windows
    return replace(
        preset,
        encoder=encoder,
        taps=tuple(taps),
        tap_norm=encoder.final_norm,
        windows=windows,
        global_blocks=tuple(taps[:-1]) if windows > 1 else (),
        stem_map=preset.stem_map and encoder.stem == "conv" and encoder.patch_size >= 4,
    )


def load_detector(path: str | Path) -> tuple[Detector, dict[str, Any]]:
    """A checkpoint or run folder -> the detector in evaluation mode, and its config.

    Raises UserError, naming the file, if anything is missing, damaged, does not fit or is not a detector.
    """
    folder = find_checkpoint(path)
    config = load_config(folder)
    if config.get("task") != "detection":
        raise UserError(f"{folder} is not a detector: its task is {config.get('task')}.")
    return build_model(folder, config, DetectorConfig.from_dict, Detector), config


_INNER = {f.name for f in dataclasses.fields(EncoderConfig)} - {f.name for f in dataclasses.fields(DetectorConfig)}
"""Fields of the encoder alone; a name that both configs have means the detector's."""


def _with(config: DetectorConfig, fields: dict[str, Any], inner: dict[str, Any]) -> DetectorConfig:
    """The config with other fields, `inner` those of the encoder. Another patch size keeps the grid of patches."""
    if "patch_size" in inner and "image_size" not in inner:
        inner = {**inner, "image_size": tuple(n * inner["patch_size"] for n in config.encoder.grid)}
    return detector_changed(config, {"encoder": changed(config.encoder, inner), **fields})
