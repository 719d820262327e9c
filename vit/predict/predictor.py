"""What all predictors share: sources in, answers out, in batches and in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from vit.errors import UserError
from vit.images.preprocess import decode

if TYPE_CHECKING:
    from PIL.Image import Image

    Source = str | Path | bytes | Image | np.ndarray

BATCH_SIZE = 32
Prepared = TypeVar("Prepared")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be decoded."""

    source: Any
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {**source_entry(self.source), "error": self.reason}


class Streaming(Generic[Prepared, Answer]):
    """`predict` and `stream` for a class that defines `prepare` and `answer`."""

    def prepare(self, image: np.ndarray) -> Prepared:
        """A decoded image, uint8 [H, W, 3] -> what `answer` needs of it."""
        raise NotImplementedError

    def answer(self, prepared: list[Prepared], sources: list[Any]) -> list[Answer]:
        """The answers to a batch. prepared: one or more images; sources: the same images as they were given."""
        raise NotImplementedError

    def predict(self, x: Source | Iterable[Source], *, batch_size: int = BATCH_SIZE) -> Answer | list[Answer]:
        """One image -> an answer; several -> a list in the same order.

        An image is a path, bytes of a file, a PIL image or an array (uint8 [H, W, 3] and what else
        `vit.images.preprocess.decode` takes). Several images are an iterable of these, or an array [B, H, W, 3].

        Raises UserError at the first unreadable image; `stream` continues instead.
        """
        if isinstance(x, Tensor):
            raise UserError(
                "Pass predict() images before preprocessing: paths, bytes, PIL images or numpy arrays; for pixels, "
                "tensor.numpy(). A normalized float tensor [B, 3, H, W] goes to a classifier's logits(), or to "
                "the predictor's model."
            )
        single = is_image(x)
        results: list[Answer] = []
        for result in self.stream([x] if single else x, batch_size=batch_size):  # pyright: ignore
            if isinstance(result, Unreadable):
                raise UserError(result.reason)
            results.append(result)
        return results[0] if single else results

    def stream(self, sources: Iterable[Source], *, batch_size: int = BATCH_SIZE) -> Iterator[Answer | Unreadable]:
        """Answers in order, one by one, computed in batches; one batch is in memory at a time."""
        return stream_answers(sources, self.prepare, self.answer, batch_size)


def stream_answers(
    sources: Iterable[Source],
    prepare: Callable[[np.ndarray], Prepared],
    answer: Callable[[list[Prepared], list[Any]], Iterable[Answer]],
    batch_size: int = BATCH_SIZE,
) -> Iterator[Answer | Unreadable]:
    """The answer to each source, in order; see `Streaming` for `prepare` and `answer`."""
    iterator = iter(sources)
    while chunk := list(islice(iterator, batch_size)):
        prepared: list[Prepared] = []
        failed: dict[int, Unreadable] = {}
        for i, source in enumerate(chunk):
            try:
                image = decode(source)
            except UserError as error:
                failed[i] = Unreadable(source, str(error))
            else:
                prepared.append(prepare(image))
        readable = [source for i, source in enumerate(chunk) if i not in failed]
        answers = iter(answer(prepared, readable) if prepared else ())
        for i in range(len(chunk)):
            yield failed[i] if i in failed else next(answers)


def source_entry(source: Any) -> dict[str, str]:
    """{"source": path} for a file, else {}."""
    return {"source": str(source)} if isinstance(source, str | Path) else {}


def is_image(x: Any) -> bool:
    """Whether `x` is one image rather than several."""
    if isinstance(x, np.ndarray):
        return x.ndim < 4
    return isinstance(x, str | Path | bytes | bytearray) or hasattr(x, "read") or hasattr(x, "getbands")


def pick_device(name: str) -> torch.device:
    """ "auto" -> the GPU where there is one, else the CPU. Raises UserError when `name` cannot be used here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Device {name!r} cannot be used here: {reason} Try auto or cpu.") from None
    return device
