"""Read `torchvision:NAME`: torchvision's labeled data sets, downloaded and read by its own classes.

Some are distributed as pickles; torchvision loads one only if its checksum matches the original.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vit.data.sets.data import Data
from vit.data.sets.imageset import FileSet, ImageSet
from vit.data.sets.names import NameTable
from vit.data.split import with_splits
from vit.data.store.cache_folder import cache_folder
from vit.errors import UserError, nearest, shown
from vit.images.preprocess import decode

Options = Mapping[str, Any]


class _Known(NamedTuple):
    """splits: constructor arguments per split. variants: extra arguments by name; the first is the default."""

    splits: Mapping[str, Options]
    variants: Mapping[str, Options] = {"": {}}


def _named(**splits: str) -> dict[str, Options]:
    return {name: {"split": value} for name, value in splits.items()}


_FLAG: dict[str, Options] = {"train": {"train": True}, "test": {"train": False}}
_TWO, _THREE = _named(train="train", test="test"), _named(train="train", val="val", test="test")
_VALID, _ALL = _named(train="train", val="valid", test="test"), {"all": {}}
SETS: dict[str, _Known] = {
    **{name: _Known(_FLAG) for name in ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS")},
    **{name: _Known(_TWO) for name in ("SVHN", "STL10", "GTSRB", "Food101", "StanfordCars", "FER2013")},
    **{name: _Known(_THREE) for name in ("Flowers102", "RenderedSST2", "PCAM", "CLEVRClassification")},
    **{name: _Known(_VALID) for name in ("CelebA", "Country211")},
    **{name: _Known(_ALL) for name in ("SEMEION", "Caltech101", "Caltech256", "EuroSAT", "SUN397", "LFWPeople")},
    # The other parts of Omniglot and LFW contain classes that training never sees.
    "Omniglot": _Known({"all": {"background": True}}),
    "EMNIST": _Known(
        _FLAG, {name: {"split": name} for name in ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")}
    ),
    "DTD": _Known(_THREE, {str(k): {"partition": k} for k in range(1, 11)}),
    "FGVCAircraft": _Known(
        _THREE, {name: {"annotation_level": name} for name in ("variant", "family", "manufacturer")}
    ),
    "OxfordIIITPet": _Known(_named(train="trainval", test="test")),
    "ImageNet": _Known(_named(train="train", val="val")),
    "Imagenette": _Known(
        _named(train="train", val="val"), {name: {"size": name} for name in ("full", "320px", "160px")}
    ),
    "Places365": _Known(
        _named(train="train-standard", val="val"), {"large": {"small": False}, "small": {"small": True}}
    ),
    "INaturalist": _Known({"train": {"version": "2021_train"}, "val": {"version": "2021_valid"}}),
    "LSUN": _Known({"train": {"classes": "train"}, "val": {"classes": "val"}}),
    "FakeData": _Known({
        "train": {"size": 1000, "image_size": (3, 64, 64)},
        "test": {"size": 200, "image_size": (3, 64, 64), "random_offset": 1000},
    }),
}  # fmt: skip


def open_torchvision(source: str, *, seed: int | None = 0, evaluation: bool = False) -> Data:
    """Read `torchvision:NAME[/VARIANT][@FOLDER]`; `evaluation` as in `open_data`.

    FOLDER defaults to the user's cache folder; missing data are downloaded there if torchvision can. Raises UserError
    for an unknown data set, data that are missing and cannot be downloaded, and a missing package.
    """
    name, variant, folder = _parts(source)
    known = SETS[name]
    options = known.variants[variant or next(iter(known.variants))]
    parts = {split: load_set(source, name, {**how, **options}, folder) for split, how in known.splits.items()}
    numbers = {split: _targets(part) for split, part in parts.items()}
    classes = _classes(next(iter(parts.values())), list(numbers.values()))
    sets: dict[str, ImageSet] = {}
    notes: list[str] = []
    for split, part in parts.items():
        targets, known_rows = _positions(numbers[split], classes)
        if not known_rows.all():
            notes.append(f"Left out {int((~known_rows).sum())} images of {split} that have no label.")
        if known_rows.any():
            rows = np.flatnonzero(known_rows)
            sets[split] = _image_set(source, split, part, folder, classes.names, targets[rows], rows)
    rule = "torchvision's own splits"
    return with_splits(sets, source, seed=seed, evaluation=evaluation, rule=rule, notes=notes)


class TorchvisionSet(ImageSet):
    """A data set whose images torchvision reads as PIL images; `rows` int64 [n] are their indices."""

    def __init__(
        self, classes: Sequence[str], targets: np.ndarray, dataset: Any, rows: np.ndarray, prefix: str
    ) -> None:
        super().__init__(classes, targets)
        self.dataset, self.rows, self.prefix = dataset, rows, prefix

    def name(self, i: int) -> str:
        return f"{self.prefix}/{self.rows[i]}"

    def read(self, i: int) -> np.ndarray:
        try:
            return decode(self.dataset[int(self.rows[i])][0])
        except UserError as error:
            raise UserError(f"{self.name(i)}: {error}") from None
        except Exception as error:  # anything that Pillow, h5py or lmdb raises
            reason = str(error) or type(error).__name__
            raise UserError(f"{self.name(i)}: cannot be decoded ({reason}). Download the data anew.") from error

    def select(self, indices: np.ndarray) -> TorchvisionSet:
        return TorchvisionSet(self.classes, self.targets[indices], self.dataset, self.rows[indices], self.prefix)


def _parts(source: str) -> tuple[str, str | None, str]:
    match = re.fullmatch(r"torchvision:([^/@]*)(?:/([^@]*))?(?:@(.+))?", source)
    name, variant, folder = match.groups() if match else ("", None, None)
    if name not in SETS:
        raise UserError(
            f"{source}: of torchvision's data sets these have labeled images: {', '.join(SETS)}.{nearest(name, SETS)}"
        )
    variants = SETS[name].variants
    if variant is not None and variant not in variants:
        raise UserError(f"{source}: the variants of {name} are {shown(list(variants)) or 'none'}.")
    return name, variant, os.path.expanduser(folder) if folder else str(cache_folder("torchvision"))


def load_set(source: str, name: str, options: Options, folder: str) -> Any:
    """Open the torchvision data set; if its class accepts a loader, its images are their paths."""
    from torchvision import datasets as theirs

    kind = getattr(theirs, name, None)
    if kind is None:
        raise UserError(f"{source}: this version of torchvision has no {name}. Update torchvision.")
    accepted = _accepted(kind)
    arguments: dict[str, Any] = dict(options)
    if "root" in accepted:
        arguments["root"] = folder
        os.makedirs(folder, exist_ok=True)
    if "loader" in accepted:
        arguments["loader"] = os.fspath
    if "download" not in accepted:
        return _constructed(source, folder, lambda: kind(**arguments), "torchvision has no download for it")
    try:
        return kind(**arguments, download=False)
    except (RuntimeError, OSError):
        return _constructed(source, folder, lambda: kind(**arguments, download=True), "it could not be downloaded")


def _accepted(kind: type) -> set[str]:
    """The arguments of a class, with those of its bases if it takes **kwargs."""
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" not in base.__dict__:
            continue
        parameters = inspect.signature(base.__init__).parameters
        names |= set(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names


def _constructed(source: str, folder: str, build: Callable[[], Any], told: str) -> Any:
    try:
        return build()
    except Exception as error:  # RuntimeError, URLError, zipfile's and tarfile's, a missing package, ...
        lines = str(error).splitlines()
        reason = (lines[0] if lines else type(error).__name__).rstrip(".")
        raise UserError(
            f"{source}: is not in {folder}, and {told}: {reason}. Put the files there by hand, or name another folder: "
            f"{source.partition('@')[0]}@FOLDER."
        ) from None


def _targets(dataset: Any) -> np.ndarray:
    """torchvision's target of every image: int64 [n], -1 for none, or 0 or 1 [n, K]."""
    n = len(dataset)
    if hasattr(dataset, "attr"):  # CelebA
        return dataset.attr.numpy()
    if hasattr(dataset, "dbs"):  # LSUN
        return np.searchsorted(np.asarray(dataset.indices), np.arange(n), side="right")
    if hasattr(dataset, "h5py"):  # PCAM
        file = dataset._base_folder / dataset._FILES[dataset._split]["targets"][0]
        with dataset.h5py.File(file) as opened:
            return np.asarray(opened["y"]).reshape(-1).astype(np.int64)
    found = next(
        (v for a in ("targets", "labels", "_labels", "y") if (v := getattr(dataset, a, None)) is not None), None
    )
    if found is None and isinstance(samples := getattr(dataset, "_samples", None), list):
        found = [label for _, label in samples]
    if found is None or len(found) != n:
        # Getting a path costs nothing; FakeData generates its images, but they are few.
        found = [_sample(dataset, i)[1] for i in range(n)]
    of_tensor = getattr(found, "numpy", None)  # `vitral data` starts without torch
    numbers = np.array([-1 if value is None else value for value in found]) if of_tensor is None else of_tensor()
    if numbers.ndim == 2:  # QMNIST: class, writer, ...
        numbers = numbers[:, 0]
    numbers = numbers.astype(np.int64)
    for i in np.unique(np.linspace(0, n - 1, min(n, 8)).astype(int)).tolist():
        label = _sample(dataset, i)[1]
        if (-1 if label is None else int(label)) != numbers[i]:
            raise UserError(f"torchvision's {type(dataset).__name__} gives other labels than it lists. Update vitral.")
    return numbers


def _sample(dataset: Any, i: int) -> tuple[Any, Any]:
    """The image and target of sample i. A PIL image is closed undecoded, since some sets open a file for it."""
    picture, label = dataset[i]
    if isinstance(picture, Image.Image):
        picture.close()
    return picture, label


class _Classes(NamedTuple):
    names: tuple[str, ...]
    values: np.ndarray | None
    """torchvision's number of each class if it has no names: int64 [K]; None for 0 to K - 1."""


def _classes(dataset: Any, targets: list[np.ndarray]) -> _Classes:
    if targets[0].ndim == 2:
        return _Classes(tuple(name for name in dataset.attr_names if name), None)
    found = next(
        (v for a in ("classes", "categories", "all_categories", "_characters") if (v := getattr(dataset, a, None))),
        None,
    )
    found = found or list(getattr(dataset, "class_to_idx", ())) or list(range(getattr(dataset, "num_classes", 0)))
    highest = max(int(numbers.max(initial=0)) for numbers in targets)
    if found and not isinstance(found, str) and highest < len(found):
        names = [", ".join(name) if isinstance(name, tuple) else str(name) for name in found]
        # ImageNet has two classes named crane.
        return _Classes(tuple(f"{n} ({k})" if names.count(n) > 1 else n for k, n in enumerate(names)), None)
    values = np.unique(np.concatenate(targets))
    values = values[values >= 0]
    return _Classes(tuple(map(str, values.tolist())), values)


def _positions(numbers: np.ndarray, classes: _Classes) -> tuple[np.ndarray, np.ndarray]:
    """Targets in ImageSet form, and bool [n]: which images have one."""
    if numbers.ndim == 2:
        return numbers.astype(np.float32), np.ones(len(numbers), bool)
    known = numbers >= 0
    if classes.values is None:
        return numbers, known
    return np.where(known, np.searchsorted(classes.values, numbers), -1), known


def _image_set(
    source: str,
    split: str,
    dataset: Any,
    folder: str,
    classes: Sequence[str],
    targets: np.ndarray,
    rows: np.ndarray,
) -> ImageSet:
    """A FileSet, sorted by name, if torchvision's class gave paths; otherwise a TorchvisionSet."""
    if not isinstance(_sample(dataset, 0)[0], str):
        return TorchvisionSet(classes, targets, dataset, rows, f"{source.partition('@')[0]}/{split}")
    names = [os.path.relpath(dataset[i][0], folder).replace(os.sep, "/") for i in rows.tolist()]
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    return FileSet(classes, targets[order], folder, NameTable.of([names[i] for i in order.tolist()]))
