"""A detector with somebody's weights: another detector's, or a plain encoder's under a new head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vit.bare import bare, fill, slots
from vit.checkpoint import WEIGHTS, find_checkpoint, fit_tensors, load_config, load_tensors
from vit.config import EncoderConfig, changed
from vit.detector.config import DetectorConfig, detector_changed, detector_preset
from vit.detector.foreign import convert
from vit.detector.model import Detector
from vit.errors import UserError

TAPS = 4
"""Depths at which the tokens of a plain encoder are taken."""


def create_detector(
    name: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    trust_pickle: bool = False,
    **fields: Any,
) -> tuple[Detector, list[str]]:
    """A detector of PRESETS by name, and what there is to tell of its weights, a line each.

    weights: a run or checkpoint folder of a detector or a classifier, or a .pth or .safetensors file of a public
    detector (see `vit.detector.foreign`). With a detector's weights, num_classes None keeps its heads.
    image_size: (H, W) or the side of a square of the learned positions of a new encoder; any other size is resized to
    at run time. `fields`: of DetectorConfig (queries=100, groups=1), or of its encoder (drop_path=.1).
    Raises UserError on a name, field or size that does not exist, and on weights that do not fit.
    """
    config = detector_preset(name)
    encoder = {
        key: fields.pop(key) for key in list(fields) if key in EncoderConfig.__dataclass_fields__ and key not in _BOTH
    }
    if image_size is not None and weights is None:
        encoder["image_size"] = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if num_classes is not None and weights is None:
        fields["num_classes"] = num_classes
    config = detector_changed(config, {"encoder": changed(config.encoder, encoder), **fields})
    if weights is None:
        return Detector(config), []
    if Path(weights).is_file():
        tensors = convert(load_tensors(weights, trust_pickle=trust_pickle), str(weights))
        return _from_detector(_fitted(config, tensors), tensors, num_classes, str(weights))
    folder = find_checkpoint(weights)
    stored, tensors = load_config(folder), load_tensors(folder / WEIGHTS)
    if stored.get("task") == "detection":
        own = detector_changed(DetectorConfig.from_dict(stored["model"]), fields)
        own = replace(own, encoder=changed(own.encoder, encoder))
        return _from_detector(own, tensors, num_classes, str(folder))
    return _from_encoder(config, stored["model"]["encoder"], encoder, tensors, num_classes, str(folder))


def load_detector(path: str | Path) -> tuple[Detector, dict[str, Any]]:
    """A checkpoint or run folder -> the detector in evaluation mode, and its config.

    Raises UserError, naming the file, when something is missing, damaged, does not fit or is no detector.
    """
    folder = find_checkpoint(path)
    config = load_config(folder)
    if config.get("task") != "detection":
        raise UserError(f"{folder} is no detector, its task is {config.get('task')}.")
    model = bare(lambda: Detector(DetectorConfig.from_dict(config["model"])))
    tensors = load_tensors(folder / WEIGHTS)
    fit_tensors(model, tensors, str(folder / WEIGHTS))
    fill(slots(model), tensors)
    return model.eval(), config


_BOTH = ("width", "heads", "mlp", "dropout")
"""Fields that detector and encoder both have: they mean the detector's."""


def _fitted(config: DetectorConfig, tensors: dict[str, Tensor]) -> DetectorConfig:
    """The preset with what a file may have otherwise: classes, queries, groups, the grid of the positions."""
    groups = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("selection."))
    places = tensors["encoder.pos_embed"].shape[1] - config.encoder.prefix_positions
    side = round(places**0.5) * config.encoder.patch_size
    return replace(
        config,
        encoder=replace(config.encoder, image_size=(side, side)),
        num_classes=len(tensors["class_head.bias"]),
        queries=len(tensors["query"]) // groups,
        groups=groups,
    )


def _from_detector(
    config: DetectorConfig, tensors: dict[str, Tensor], num_classes: int | None, source: str
) -> tuple[Detector, list[str]]:
    notes = []
    stored = len(tensors["class_head.bias"])
    classes = stored if num_classes is None else num_classes
    model = Detector(replace(config, num_classes=classes))
    own: dict[str, Tensor] = model.state_dict()
    if classes != stored:
        heads = [name for name in own if ".class_head." in f".{name}"]
        tensors = {**tensors, **{name: own[name] for name in heads}}
        notes.append(f"new class heads for {classes} classes (the weights know {stored})")
    # Other numbers of queries or groups: the first ones are kept, new ones are new.
    groups = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("selection."))
    if (config.groups, config.queries) != (groups, len(tensors["query"]) // groups):
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("selection.", "query"))}
        for name, tensor in own.items():
            if name.startswith("selection."):
                kept[name] = tensors.get(name, tensor)
            elif name in ("query", "query_box"):
                kept[name] = _resized(tensors[name], tensor, groups, config)
        tensors = kept
        notes.append(f"{config.groups} x {config.queries} queries instead of {groups} groups of the weights")
    fit_tensors(model, tensors, source)
    model.load_state_dict(tensors)
    return model, notes


def _resized(old: Tensor, new: Tensor, groups: int, config: DetectorConfig) -> Tensor:
    """Query tables [groups * queries, ...]: the part that both have is the old one's."""
    new = new.clone().unflatten(0, (config.groups, config.queries))
    old = old.unflatten(0, (groups, -1))
    g, q = min(groups, config.groups), min(old.shape[1], config.queries)
    new[:g, :q] = old[:g, :q]
    return new.flatten(0, 1)


def _from_encoder(
    config: DetectorConfig,
    stored: dict[str, Any],
    changes: dict[str, Any],
    tensors: dict[str, Tensor],
    num_classes: int | None,
    source: str,
) -> tuple[Detector, list[str]]:
    """The head of `config` on the encoder of a classifier: no windows, TAPS taps spread over its depth."""
    encoder = changed(changed(EncoderConfig(), stored), changes)
    depth = encoder.depth
    taps = tuple(sorted({round(depth * (i + 1) / TAPS) for i in range(TAPS)} - {0}))
    model = Detector(
        replace(
            config,
            encoder=encoder,
            taps=taps,
            tap_norm=encoder.final_norm,
            windows=1,
            global_blocks=(),
            num_classes=num_classes or config.num_classes,
        )
    )
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    if not kept:
        raise UserError(f"{source} holds no encoder: its first tensors are {', '.join(list(tensors)[:3])}.")
    fit_tensors(model.encoder, {name.removeprefix("encoder."): tensor for name, tensor in kept.items()}, source)
    model.load_state_dict({**model.state_dict(), **kept})
    return model, [f"new detector head on the encoder of {source}, tapped after blocks {', '.join(map(str, taps))}"]
