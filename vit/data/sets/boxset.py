"""Images with boxes: the output of every detection reader and the input of the detection loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from vit.data.sets.imageset import FileSet, ImageSet
from vit.data.sets.names import NameTable
from vit.data.sets.rows import RowSet, Store
from vit.data.sets.window import Choose, View, Window
from vit.errors import UserError, nearest, shown


class Annotation(NamedTuple):
    """The objects of one image."""

    boxes: np.ndarray
    """float32 [n, 4]: xyxy in pixels, within the image."""
    labels: np.ndarray
    """int64 [n]: indices of the set's classes."""
    crowd: np.ndarray
    """bool [n]: the box covers many objects; it is excluded from training and ignored in evaluation."""
    area: np.ndarray
    """float32 [n]: square pixels, of the object's outline if the file gives it, else of the box."""


class BoxSet(Protocol):
    """An ImageSet whose images have an `annotation`."""

    classes: tuple[str, ...]
    targets: np.ndarray

    def __len__(self) -> int: ...
    def name(self, i: int) -> str: ...
    def image(self, i: int) -> np.ndarray: ...
    def whole(self, i: int) -> View: ...
    def view(self, i: int, choose: Choose) -> View: ...
    def counts(self) -> np.ndarray: ...
    def labeled(self) -> tuple[np.ndarray, np.ndarray]: ...
    def objects(self) -> np.ndarray: ...
    def annotation(self, i: int) -> Annotation: ...
    def image_id(self, i: int) -> int: ...
    def relabel(self, classes: Sequence[str]) -> None: ...


class Boxed(ImageSet):
    """Base of sets with boxes. Boxes are in flat arrays; image i owns rows ends[i - 1]..ends[i].
    ids: int64 [n], image ids; sizes: int64 [n, 2], (H, W) from the annotations."""

    ends: np.ndarray
    rows: Annotation
    ids: np.ndarray
    sizes: np.ndarray

    def annotate(self, ends: np.ndarray, rows: Annotation, ids: np.ndarray, sizes: np.ndarray) -> None:
        self.ends, self.rows, self.ids, self.sizes = ends, rows, ids, sizes

    def annotation(self, i: int) -> Annotation:
        mine = slice(self.ends[i - 1] if i else 0, self.ends[i])
        return Annotation(*(column[mine] for column in self.rows))

    def image_id(self, i: int) -> int:
        return int(self.ids[i])

    def read(self, i: int) -> np.ndarray:
        image = super().read(i)  # pyright: ignore[reportAbstractUsage]  # defined by the other base class
        self.check_size(i, (image.shape[0], image.shape[1]))
        return image

    def read_part(self, i: int, choose: Choose) -> View:
        def checked(size: tuple[int, int]) -> Window:
            self.check_size(i, size)
            return choose(size)

        return super().read_part(i, checked)

    def check_size(self, i: int, size: tuple[int, int]) -> None:
        """Raises UserError if the size (H, W) of image i differs from its annotations."""
        height, width = self.sizes[i].tolist()
        if size != (height, width):
            raise UserError(wrong_size(self.name(i), size, (height, width)))

    def counts(self) -> np.ndarray:
        """Boxes per class, excluding crowds: int64 [K]."""
        return np.bincount(self.rows.labels[~self.rows.crowd], minlength=len(self.classes))

    def labeled(self) -> tuple[np.ndarray, np.ndarray]:
        """Image and class of every box, excluding crowds: int64 [m] each."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0))
        single = ~self.rows.crowd
        return owners[single], self.rows.labels[single]

    def objects(self) -> np.ndarray:
        """Boxes per image, excluding crowds: int64 [n]."""
        return np.bincount(self.labeled()[0], minlength=len(self))

    def rarest(self) -> np.ndarray:
        """int64 [n]: for each image, its class that occurs in the fewest images; -1 without boxes."""
        pairs = np.unique(np.stack(self.labeled()), axis=1)
        images = np.bincount(pairs[1], minlength=len(self.classes))
        order = np.lexsort((images[pairs[1]], pairs[0]))
        owners, first = np.unique(pairs[0, order], return_index=True)
        found = np.full(len(self), -1, np.int64)
        found[owners] = pairs[1, order[first]]
        return found

    def chosen(self, indices: np.ndarray) -> tuple[np.ndarray, Annotation, np.ndarray, np.ndarray]:
        """Ends, rows, ids and sizes of the selected images, in this order."""
        counts = np.diff(self.ends, prepend=0)[indices]
        ends = np.cumsum(counts)
        # A row keeps its distance from its image's last row.
        rows = np.arange(ends[-1] if len(ends) else 0) + np.repeat(self.ends[indices] - ends, counts)
        return ends, Annotation(*(column[rows] for column in self.rows)), self.ids[indices], self.sizes[indices]

    def relabel(self, classes: Sequence[str]) -> None:
        table = label_table(self.classes, classes, self.counts())
        self.rows = self.rows._replace(labels=table[self.rows.labels])
        self.classes = tuple(classes)


class BoxFiles(Boxed, FileSet):
    """Image files with boxes."""

    def __init__(
        self,
        classes: Sequence[str],
        root: str,
        names: NameTable,
        ends: np.ndarray,
        rows: Annotation,
        ids: np.ndarray,
        sizes: np.ndarray,
    ) -> None:
        FileSet.__init__(self, classes, np.diff(ends, prepend=0), root, names)
        self.annotate(ends, rows, ids, sizes)

    def select(self, indices: np.ndarray) -> BoxFiles:
        return BoxFiles(self.classes, self.root, self.names.select(indices), *self.chosen(indices))


class BoxRows(Boxed, RowSet):
    """Images with boxes in a store; `store_rows` int64 [n] are their rows in the store."""

    def __init__(
        self,
        classes: Sequence[str],
        store: Store,
        store_rows: np.ndarray,
        ends: np.ndarray,
        rows: Annotation,
        ids: np.ndarray,
        sizes: np.ndarray,
    ) -> None:
        RowSet.__init__(self, classes, np.diff(ends, prepend=0), store, store_rows)
        self.annotate(ends, rows, ids, sizes)

    def select(self, indices: np.ndarray) -> BoxRows:
        return BoxRows(self.classes, self.store, self.places[indices], *self.chosen(indices))


def label_table(own: Sequence[str], classes: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """int64 [K]: the index in `classes` of each class in `own`, -1 for a class without boxes that `classes` lacks.

    Raises UserError for a class with boxes that is not in `classes`, the model's list.
    """
    position = {name: k for k, name in enumerate(classes)}
    unknown = [name for name, count in zip(own, counts, strict=True) if count and name not in position]
    if unknown:
        raise UserError(
            f"The model has no class {shown(unknown)}.{nearest(unknown[0], classes)} Its classes: {shown(classes)}."
        )
    return np.array([position.get(name, -1) for name in own], np.int64)


def wrong_size(name: str, found: tuple[int, ...], told: tuple[int, int]) -> str:
    return (
        f"{name}: {differing_size(found, told)} The boxes would be in the wrong place; correct the file or the "
        "annotations."
    )


def differing_size(found: tuple[int, ...], told: tuple[int, int]) -> str:
    turned = " The file's EXIF orientation turns it: export it upright." if found[:2] == told[::-1] else ""
    return f"the image is {found[1]}x{found[0]} pixels, its annotations say {told[1]}x{told[0]}.{turned}"
