"""A checkpoint layout as a table of names, read in both directions.

A row pairs names of ours with names of theirs. `#` stands for the number of a block, `.*` for `.weight` and `.bias`,
`{a,b}` for several tensors that are joined along the first axis (of theirs into one of ours, or of ours into one of
theirs). A row is skipped if the model or the file lacks its tensors; several rows for one tensor are alternatives. A
tensor that is left over on either side is an error, unless the layout lists it as left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from vit.errors import UserError, shown
from vit.model.config import ClassifierConfig, Resize
from vit.pretrained.files.source import Source

Form = Literal["", "conv", "flat"]
"""The shape of theirs: as ours, a convolution [D, C, p, p], or without leading axes of size 1."""
Row = tuple[str, str] | tuple[str, str, Form]
Hook = Callable[[str, Tensor, ClassifierConfig, bool], Tensor]
"""(name, tensor, config, writing) -> the tensor in the other convention."""


def _unchanged(name: str, tensor: Tensor, config: ClassifierConfig, writing: bool) -> Tensor:
    return tensor


@dataclass(frozen=True, eq=False)
class Layout:
    name: str
    """As messages call it."""
    rows: tuple[Row, ...]
    marks: tuple[str, ...]
    """Patterns of keys by which the layout is recognized. The first, a complete key, gives the prefix of a file before
    all keys (`visual.`, `backbone.`)."""
    never: tuple[str, ...] = ()
    """Patterns of keys that the layout never has."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Pattern of keys -> why they are not needed. `/` before a key means "outside the prefix"."""
    resize: Resize | None = "antialias"
    """How the code base of this layout resizes positions; None leaves it to the family."""
    theirs: Hook = _unchanged
    """For one tensor of theirs, by their name."""
    ours: Hook = _unchanged
    """For one tensor of ours, by our name; applied after `theirs` in reading, before it in writing."""
    adapt: Callable[[ClassifierConfig, set[str]], ClassifierConfig] = lambda config, names: config
    """The config, changed by what else the keys of a file tell."""

    def recognize(self, source: Source) -> Recognized | None:
        """The file in this layout, or None if it has another."""
        anchor, names = self.marks[0], set(source.shapes)
        found = [name for name in names if name == anchor or name.endswith(("." + anchor, "/" + anchor))]
        for name in sorted(found, key=len):
            inside = relative(names, prefix := name.removesuffix(anchor))
            if all(_any(inside, mark) for mark in self.marks[1:]) and not any(_any(inside, no) for no in self.never):
                file = Recognized(self, source, prefix, inside)
                return file if self._kernel_fits(file) else None
        return None

    def _kernel_fits(self, file: Recognized) -> bool:
        """Whether the patch kernel is a convolution where the layout says so, and linear where it does not."""
        for ours, theirs, *form in self.rows:
            if ours == "encoder.patch_embed.proj.weight" and theirs in file.inside:
                return len(file.shape(theirs)) == (4 if form else 2)
        return False

    def pairs(self, depth: int, only: Container[str] | None = None) -> Iterator[tuple[list[str], list[str], Form]]:
        """Every row written out: (our names, their names, form). `only`: our names to take, by block 0."""
        for ours, theirs, *form in self.rows:
            for end in ("weight", "bias") if ours.endswith(".*") else ("",):
                mine, other = (_braces(_ended(text, end)) for text in (ours, theirs))
                if only is not None and mine[0].replace("#", "0") not in only:
                    continue
                if "#" not in ours:
                    yield mine, other, form[0] if form else ""
                    continue
                for i in map(str, range(depth)):
                    yield [n.replace("#", i) for n in mine], [n.replace("#", i) for n in other], form[0] if form else ""


@dataclass(frozen=True)
class Recognized:
    """A file whose layout is known."""

    layout: Layout
    source: Source
    prefix: str
    """The prefix of all keys of the layout."""
    inside: set[str]
    """The file's keys without the prefix; those outside it begin with a slash."""

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shapes[self._key(name)]

    def get(self, name: str) -> Tensor:
        return self.source.get(self._key(name))

    def _key(self, name: str) -> str:
        return name[1:] if name.startswith("/") else self.prefix + name

    def left_out(self) -> list[str]:
        """A phrase for every left-out pattern that matches keys of the file."""
        reasons = self.layout.left_out
        return [f"{p.removeprefix('/')} ({reasons[p]})" for p in reasons if _any(self.inside, p)]


def _any(names: set[str], pattern: str) -> bool:
    if "*" not in pattern:
        return pattern in names
    return any(map(_matcher(pattern), names))


@cache
def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(pattern)).match


def relative(names: set[str], prefix: str) -> set[str]:
    """Names without the prefix; those outside it begin with a slash."""
    if not prefix:
        return names
    return {name.removeprefix(prefix) if name.startswith(prefix) else "/" + name for name in names}


def _ended(text: str, end: str) -> str:
    return text[:-1] + end if end and text.endswith(".*") else text


def _braces(text: str) -> list[str]:
    match = re.search(r"\{(.*?)\}", text) if "{" in text else None
    if match is None:
        return [text]
    return [text[: match.start()] + choice + text[match.end() :] for choice in match[1].split(",")]


def read(file: Recognized, config: ClassifierConfig, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a model in fp32, from a file.

    expected: name -> shape of every tensor of the model. Raises UserError, with a list, if tensors are missing,
    unexpected or of another shape.
    """
    layout, inside = file.layout, file.inside
    tensors: dict[str, Tensor] = {}
    used: set[str] = set()
    wrong: list[str] = []
    for ours, theirs, _ in layout.pairs(config.encoder.depth, only=expected):
        if ours[0] not in expected or ours[0] in tensors or not inside.issuperset(theirs):
            continue
        shared = not used.isdisjoint(theirs)  # BEiT's pre-training shares one table, of which each block gets its own
        used.update(theirs)
        parts = []
        for name in theirs:
            part = file.get(name).clone() if shared else file.get(name)
            if not part.is_floating_point():
                raise UserError(f"{file.source.name}: {name} has type {part.dtype}. Quantized files are not supported.")
            parts.append(layout.theirs(name, part.float(), config, False))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        shares = joined.chunk(len(ours)) if len(ours) > 1 else (joined,)
        for name, tensor in zip(ours, shares, strict=False):
            fitted = _fit(layout.ours(name, tensor, config, False), expected[name])
            if fitted is None:
                wrong.append(f"{'+'.join(theirs)} is {list(joined.shape)}, {name} {list(expected[name])}")
            else:
                tensors[name] = fitted.contiguous()
    bad = {text.split()[2].removesuffix(",") for text in wrong}
    missing = sorted(expected.keys() - tensors.keys() - bad) if not wrong else []
    extra = sorted(n for n in inside - used if not any(_matcher(p)(n) for p in layout.left_out))
    problems = [
        f"{what} {shown(list(items))}"
        for what, items in (("wrong shape:", wrong), ("missing:", missing), ("not used:", extra))
        if items
    ]
    if problems:
        raise UserError(f"{file.source.name} ({layout.name}) does not fit the model. " + "; ".join(problems) + ".")
    return tensors


def write(layout: Layout, config: ClassifierConfig, tensors: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a model under this layout's names, with `prefix` before those of the encoder.

    Raises UserError on a tensor that the layout does not have.
    """
    done: set[str] = set()
    written: dict[str, Tensor] = {}
    c = config.encoder
    for ours, theirs, form in layout.pairs(c.depth):
        if done & set(ours) or not tensors.keys() >= set(ours):
            continue
        done.update(ours)
        parts = [layout.ours(name, tensors[name], config, True) for name in ours]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        if form == "conv":
            joined = joined.reshape(len(joined), c.in_chans, c.patch_size, c.patch_size)
        while form == "flat" and joined.shape[0] == 1:
            joined = joined[0]
        shares = [2 if re.search(r"\bkv\b", name) else 1 for name in theirs]  # keys and values in one tensor
        sizes = [len(joined) * share // sum(shares) for share in shares]
        for name, part in zip(theirs, joined.split(sizes), strict=True):
            written[name[1:] if name.startswith("/") else prefix + name] = layout.theirs(
                name, part, config, True
            ).contiguous()
    if left := sorted(tensors.keys() - done):
        raise UserError(f"The layout {layout.name} has no place for {shown(left)}.")
    return written


def _fit(tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """The tensor in this shape if that only changes axes of size 1 or unrolls a kernel [D, C, p, p]; else None."""
    if tuple(tensor.shape) == shape:
        return tensor
    kernel = tensor.ndim == 4 and tuple(tensor.flatten(1).shape) == shape
    squeezed = [n for n in tensor.shape if n != 1] == [n for n in shape if n != 1]
    return tensor.reshape(shape) if kernel or squeezed else None
