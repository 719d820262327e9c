"""A name and a source of weights -> a model, and notes on everything that was changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vit.errors import UserError, shown
from vit.images.preprocess import Preprocess
from vit.model.classifier import Classifier
from vit.model.config import ClassifierConfig, changed
from vit.model.resize import refit
from vit.model.unfilled import fill, slots, unfilled
from vit.pretrained.files.card import Card
from vit.pretrained.files.fetch import check_timm, is_remote, open_weights
from vit.pretrained.files.source import SUFFIXES, Source, is_foreign_folder
from vit.pretrained.layouts.google import unstack
from vit.pretrained.layouts.rules import Recognized, read
from vit.pretrained.registry.facts import config_of_file
from vit.pretrained.registry.families import FAMILIES
from vit.pretrained.registry.find import Model, by_card, by_source, find, in_layout
from vit.runs.checkpoint import find_checkpoint, load_model


@dataclass(frozen=True)
class Loaded:
    model: Classifier
    preprocess: Preprocess
    notes: tuple[str, ...]
    """One note for each difference from the file."""
    config: dict[str, Any]
    """The config.json of a checkpoint folder; else {}."""


def load(
    name: str | None,
    weights: str | Path,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_chans: int | None = None,
    trust_pickle: bool = False,
    **encoder: Any,
) -> Loaded:
    """Weights from a file, a folder (a checkpoint, or Hugging Face's), `timm:NAME` or `hf:OWNER/REPO`.

    name: needed where the source does not tell the architecture, as for a file of a public family. num_classes,
    image_size ((H, W) or the side of a square) and in_chans: None keeps the file's. `encoder`: other fields of
    EncoderConfig without weights (drop_path=.1), or a patch_size. Raises UserError with what is wrong and where.
    """
    source = str(weights)
    if not is_public(source):
        model, config = load_model(find_checkpoint(source))
        loaded = Loaded(model, Preprocess.from_dict(config["preprocess"]), (), config)
        patch = None
    else:
        row = find(name) if name else by_source(source)
        if row is None and not may_have_card(source):
            if source.startswith("timm:"):
                check_timm(source.removeprefix("timm:"))
            raise UserError(WHICH_MODEL.format(source))
        opened = open_weights(source, trust_pickle=trust_pickle)
        row = row or by_card(opened.card, opened.shapes)
        if row is None:
            raise UserError(WHICH_MODEL.format(source))
        loaded = from_public(row, opened, image_size)
        patch = None
        if row.patch != loaded.model.config.encoder.patch_size:  # FlexiViT's files, whose kernel fits many sizes
            patch, image_size = row.patch, image_size or row.image_size
    return adapted(loaded, num_classes, image_size, in_chans, {"patch_size": patch, **encoder})


RGB = 3
"""Channels of the images that files are decoded to."""
WHICH_MODEL = "{}: name the model of these weights, for example --model dinov2_s14. `vitral models` lists all."


def is_public(source: str) -> bool:
    """Whether this is a file, a folder of Hugging Face's, `timm:` or `hf:`, not a checkpoint folder of ours."""
    return is_remote(source) or source.endswith(SUFFIXES) or is_foreign_folder(source)


def may_have_card(source: str) -> bool:
    """Whether a config.json of Hugging Face's may describe the model."""
    return source.startswith("hf:") or is_foreign_folder(source) or is_foreign_folder(Path(source).parent)


def from_public(row: Model, source: Source, image_size: int | tuple[int, int] | None = None) -> Loaded:
    """The model in a file of a row of the registry. image_size: (H, W) in pixels, or the side of a square, that the
    learned positions are for; it is used if their number does not tell."""
    card = source.card
    file = recognize(row, unstack(source))
    family = as_written(in_layout(row, file.layout), card)
    file = file if family.head_bias else _without_zeros(file)
    if card.size is not None and card.size.heads != family.encoder.heads:
        raise UserError(
            f"{source.name}: its config.json gives {card.size.heads} heads, but {row.name} has {family.encoder.heads}."
        )
    requested = (image_size, image_size) if isinstance(image_size, int) else image_size
    config = as_written(config_of_file(file, family, card.image_size, requested), card)
    model = unfilled(lambda: Classifier(config))
    places = slots(model)
    fill(places, read(file, config, {slot.name: slot.shape for slot in places}))
    preprocess = replace(row.preprocess, size=config.encoder.image_size, **card.images)
    reasons = file.left_out()
    return Loaded(model.eval(), preprocess, (f"Left out: {'; '.join(reasons)}.",) if reasons else (), {})


def _without_zeros(file: Recognized) -> Recognized:
    """Drop a head bias of zeros: CLIP's projection has no bias, but timm's head has one."""
    name = "head.bias"
    if name in file.inside and not (bias := file.get(name)).is_meta and not bias.any():
        return replace(file, inside=file.inside - {name})
    return file


def as_written(config: ClassifierConfig, card: Card) -> ClassifierConfig:
    """The config as the code base that wrote the weights computes it, so that the outputs are the same."""
    pool = card.pool if card.pool and config.pool in ("class", "mean") else config.pool
    encoder = replace(config.encoder, **card.encoder)
    return replace(config, pool=pool, encoder=encoder, **card.top)  # pyright: ignore


def recognize(row: Model, source: Source) -> Recognized:
    """The layout of a file, from its keys. Raises UserError if it is none of the family's."""
    for layout in FAMILIES[row.family].layouts:
        if (file := layout.recognize(source)) is not None:
            return file
    others = {layout.name: layout for family in FAMILIES.values() for layout in family.layouts}
    guess = next((layout.name for layout in others.values() if layout.recognize(source)), None)
    layouts = shown([layout.name for layout in FAMILIES[row.family].layouts])
    what = f"has the layout {guess}" if guess else f"has no known layout (keys: {shown(sorted(source.shapes), 5)})"
    raise UserError(f"{source.name} {what}; {row.name} has {layouts}.")


def adapted(
    loaded: Loaded,
    num_classes: int | None,
    image_size: int | tuple[int, int] | None,
    in_chans: int | None,
    encoder: dict[str, Any],
) -> Loaded:
    """The loaded model with another head, size, number of channels or encoder fields; None keeps the model's."""
    old: ClassifierConfig = loaded.model.config
    values = {key: value for key, value in encoder.items() if value is not None}
    if not values and num_classes is image_size is in_chans is None:
        return loaded
    if image_size is not None:
        values["image_size"] = (image_size, image_size) if isinstance(image_size, int) else image_size
    elif "patch_size" in values:
        values["image_size"] = tuple(n * values["patch_size"] for n in old.encoder.grid)
    if in_chans is not None:
        values["in_chans"] = in_chans
    classes = old.num_classes if num_classes is None else num_classes
    new = replace(old, encoder=changed(old.encoder, values), num_classes=classes)
    if new == old:
        return loaded
    model, notes = refit(loaded.model, new)
    preprocess = replace(loaded.preprocess, size=new.encoder.image_size)
    return Loaded(model, preprocess, (*loaded.notes, *notes), loaded.config)
