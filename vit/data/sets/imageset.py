"""ImageSet: names, targets and pixels by index. The interface between every reader and the loader."""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from PIL import Image

from vit.data.sets.names import NameTable
from vit.data.sets.window import Choose, View, decode_window, whole_cut
from vit.errors import UserError, nearest, shown
from vit.images.preprocess import MAX_PIXELS, decode

# Decoding a 28 x 28 PNG takes longer than augmenting it, so sets up to this size are cached decoded.
CACHE_BYTES = 64 * 2**20


class ImageSet(ABC):
    """Labeled images. `targets` is int64 [n], multi-hot float32 [n, K] for multi-label data, or float32 [n] for one
    number per image without classes."""

    def __init__(self, classes: Sequence[str], targets: np.ndarray) -> None:
        self.classes = tuple(classes)
        self.targets = targets
        self._cache: dict[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def multilabel(self) -> bool:
        return self.targets.ndim == 2

    @property
    def numbers(self) -> bool:
        return self.targets.ndim == 1 and self.targets.dtype.kind == "f"

    @abstractmethod
    def name(self, i: int) -> str:
        """Name of image i in messages: its path, or a made-up one such as digits/test/17."""

    def key(self, i: int) -> bytes:
        """Name within the set, independent of the set's location."""
        return os.fsencode(self.name(i))

    def keys(self) -> Iterator[bytes]:
        """`key` of all images, in order."""
        return (self.key(i) for i in range(len(self)))

    @abstractmethod
    def read(self, i: int) -> np.ndarray:
        """Decode image i: uint8 [H, W, 3]. Raises UserError if it cannot be decoded."""

    def file(self, i: int) -> tuple[str, bytes]:
        """Image i as a file: its suffix, such as ".jpg", and its bytes; a PNG if the source has no file."""
        buffer = io.BytesIO()
        Image.fromarray(self.read(i)).save(buffer, "PNG")
        return ".png", buffer.getvalue()

    def thinned(self, most: int) -> ImageSet:
        """At most `most` of the images, evenly spaced over the set."""
        return self if len(self) <= most else self.select(np.linspace(0, len(self) - 1, most).astype(int))

    @abstractmethod
    def select(self, indices: np.ndarray) -> ImageSet:
        """The subset with these images, in this order."""

    def image(self, i: int) -> np.ndarray:
        """Image i: uint8 [H, W, 3], read-only. Raises UserError if it cannot be decoded."""
        if self._cache is not None and i in self._cache:
            return self._cache[i]
        return self.read(i)

    def whole(self, i: int) -> View:
        """All of image i with its size, for evaluation. Raises UserError as `image` does."""
        image = self.image(i)
        height, width = image.shape[:2]
        return View(image, (0, 0, width, height), (height, width))

    def view(self, i: int, choose: Choose) -> View:
        """The window of image i that `choose` returns; the reader decodes only what it needs, if it can.
        Raises UserError as `image` does."""
        if self._cache is not None and i in self._cache:
            return whole_cut(self._cache[i], choose)
        return self.read_part(i, choose)

    def read_part(self, i: int, choose: Choose) -> View:
        """`view` without the cache."""
        return whole_cut(self.read(i), choose)

    def cache(self, limit: int = CACHE_BYTES) -> bool:
        """Keep all decoded images in memory if they fit into `limit` bytes; return whether they do."""
        if self._cache is not None:
            return True
        kept: dict[int, np.ndarray] = {}
        used = 0
        n = len(self)
        # Decode a few from across the set first, to give up early on a large one.
        probe = np.unique(np.linspace(0, n - 1, min(n, 8)).astype(np.int64)).tolist()
        for i in chain(probe, range(n)):
            if i in kept:
                continue
            try:
                kept[i] = self.read(i)
            except UserError:
                continue  # reported when a batch needs it
            used += kept[i].nbytes
            if used > limit or used / len(kept) * n > 2 * limit:
                return False
        self._cache = kept
        return True

    def counts(self) -> np.ndarray:
        """Images per class: int64 [K]."""
        if self.numbers:
            return np.zeros(len(self.classes), np.int64)
        if self.multilabel:
            return self.targets.sum(axis=0).astype(np.int64)
        return np.bincount(self.targets, minlength=len(self.classes))

    def fingerprint(self) -> str:
        """A hash of all names in order; changes when files are added, removed or renamed."""
        digest = hashlib.blake2b(digest_size=8)
        for key in self.keys():
            digest.update(key + b"\0")
        return digest.hexdigest()

    def stamp(self) -> str:
        """A hash that changes when pixels may have; for files, of their names, sizes and modification times."""
        return self.fingerprint()

    def relabel(self, classes: Sequence[str]) -> None:
        """Renumber the targets by `classes`, a model's list, which may be longer or in another order.

        Raises UserError if a class that has images is not in `classes`.
        """
        position = {name: k for k, name in enumerate(classes)}
        occurring = [name for name, count in zip(self.classes, self.counts(), strict=True) if count]
        unknown = [name for name in occurring if name not in position]
        if unknown:
            raise UserError(
                f"The model has no class {shown(unknown)}.{nearest(unknown[0], classes)} Its classes: {shown(classes)}."
            )
        if self.multilabel:
            targets = np.zeros((len(self), len(classes)), np.float32)
            for k, name in enumerate(self.classes):
                if name in position:
                    targets[:, position[name]] = self.targets[:, k]
        elif self.numbers:
            targets = self.targets
        else:
            table = np.array([position.get(name, -1) for name in self.classes], np.int64)
            targets = table[self.targets.astype(np.int64)]
        self.classes, self.targets = tuple(classes), targets


class ArraySet(ImageSet):
    """Images in memory: uint8 [n, H, W] or [n, H, W, 3]."""

    def __init__(self, classes: Sequence[str], targets: np.ndarray, images: np.ndarray, prefix: str) -> None:
        super().__init__(classes, targets)
        self.images = images
        self.prefix = prefix

    def name(self, i: int) -> str:
        return f"{self.prefix}/{i}"

    def read(self, i: int) -> np.ndarray:
        return decode(self.images[i])

    def stamp(self) -> str:
        return hashlib.blake2b(np.ascontiguousarray(self.images).data, digest_size=16).hexdigest()

    def select(self, indices: np.ndarray) -> ArraySet:
        return ArraySet(self.classes, self.targets[indices], self.images[indices], self.prefix)


class FileSet(ImageSet):
    """Image files under a root folder.

    Names are one block of bytes and an array of offsets: a million Python strings would take 100 MB and be copied into
    every worker as their reference counts change.
    """

    def __init__(
        self,
        classes: Sequence[str],
        targets: np.ndarray,
        root: str,
        names: NameTable,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(classes, targets)
        self.root = root
        self.names = names
        self.max_pixels = max_pixels

    def name(self, i: int) -> str:
        return os.path.join(self.root, self.names[i])

    def key(self, i: int) -> bytes:
        return os.fsencode(self.names[i])

    def keys(self) -> Iterator[bytes]:
        return self.names.encoded()

    def read(self, i: int) -> np.ndarray:
        return decode(self.name(i), max_pixels=self.max_pixels)

    def read_part(self, i: int, choose: Choose) -> View:
        return decode_window(self.name(i), choose, max_pixels=self.max_pixels)

    def file(self, i: int) -> tuple[str, bytes]:
        name = self.name(i)
        try:
            with open(name, "rb") as file:
                return os.path.splitext(name)[1].lower(), file.read()
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror}).") from None

    def stamp(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for key in self.keys():
            try:
                status = os.stat(os.path.join(os.fsencode(self.root), key))
                digest.update(b"%s\0%d\0%d\0" % (key, status.st_size, status.st_mtime_ns))
            except OSError:
                digest.update(key + b"\0")
        return digest.hexdigest()

    def select(self, indices: np.ndarray) -> FileSet:
        return FileSet(
            self.classes,
            self.targets[indices],
            self.root,
            self.names.select(indices),
            max_pixels=self.max_pixels,
        )
