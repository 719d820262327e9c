"""From a BoxSet to batches of images and targets. As in `vit.data.load.loader`, workers ship uint8."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from vit.data.augment.boxes import Augmented, BoxAugment, BoxPipeline, placed
from vit.data.augment.canvas import VISIBLE
from vit.data.augment.multiscale import MultiScale
from vit.data.load.loader import BAD_SHARE, Bad
from vit.data.load.sampling import Draw, EvalBatches, TrainBatches, derive_seed
from vit.data.load.workers import reading, require_room, run_reader
from vit.data.sets.boxset import BoxSet
from vit.errors import UserError, shown
from vit.images.preprocess import Preprocess

if TYPE_CHECKING:
    from vit.data.load.pixel_cache import PixelCache


class BoxBatch(NamedTuple):
    """images float32 [B, 3, H, W], normalised, on the device; targets, one dict an image, on the CPU; index int64 [B].

    A target: `boxes` float32 [n, 4] (cxcywh as shares of the input), `labels` int64 [n], `crowd` bool [n], `image_id`,
    `original_size` (H, W). For evaluation also `placement` (scale_x, scale_y, left, top), where x of the input is x of
    the image * scale + left, `original_boxes` float32 [n, 4] (xyxy in pixels of the image) and `area` float32 [n].
    """

    images: torch.Tensor
    targets: list[dict[str, Any]]
    index: torch.Tensor


class _Shipped(NamedTuple):
    """What a worker ships: pixels uint8 [b, h, w, 3], a target for each, the indices that failed, and how many boxes
    were dropped."""

    pixels: torch.Tensor
    targets: list[dict[str, Any]]
    index: torch.Tensor
    bad: list[tuple[int, str]]
    dropped: int


class _Step(NamedTuple):
    """What a batch is made of."""

    draws: list[Draw]
    size: tuple[int, int]
    """(H, W) of its images."""
    mixes: bool = True
    """Whether several images may be mixed into one."""


class _Steps(Sampler[_Step]):
    """The batches of a run with the size of each, which `scales` changes from step to step. From step `unmixed` on,
    images come alone. All of it is a function of the step."""

    def __init__(self, batches: TrainBatches, size: tuple[int, int], scales: MultiScale | None, unmixed: int) -> None:
        self.batches, self.size, self.scales, self.unmixed = batches, size, scales, unmixed

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[_Step]:
        for step, draws in enumerate(self.batches, self.batches.start_step):
            yield _Step(draws, self.size if self.scales is None else self.scales.at(step), step < self.unmixed)


class _Reader(Dataset[_Shipped]):
    def __init__(self, images: BoxSet, preprocess: Preprocess, pipeline: BoxPipeline | None, seed: int) -> None:
        preprocess.placement(preprocess.size)  # "crop" is refused here, and not taken for the fault of an image
        self.images, self.preprocess, self.pipeline, self.seed = images, preprocess, pipeline, seed

    def __getitem__(self, step: _Step) -> _Shipped:
        draws, (height, width), mixes = step
        pipeline = None if self.pipeline is None else self.pipeline.at(step.size, mixes)
        pixels: list[np.ndarray] = []
        targets: list[dict[str, Any]] = []
        index: list[int] = []
        bad: list[tuple[int, str]] = []
        dropped = 0

        def read(draw: Draw) -> None:
            nonlocal dropped
            reading(draw.index)
            try:
                if pipeline is None:
                    values, target = self._evaluated(draw)
                else:
                    done = pipeline.read(self.images, draw.index, derive_seed(self.seed, *draw))
                    values, target = done.pixels, self._target(done, draw, pipeline.preprocess.size)
                    dropped += done.dropped
                    bad.extend(done.bad)
            except UserError as error:
                bad.append((draw.index, str(error)))
                return
            pixels.append(values)
            targets.append(target)
            index.append(draw.index)

        for draw in draws:
            read(draw)
        if not pixels and pipeline is not None:
            # A training step needs at least one image: the next readable one of the set takes the place.
            for offset in range(1, min(100, len(self.images))):
                read(draws[0]._replace(index=(draws[0].index + offset) % len(self.images)))
                if pixels:
                    break
        stacked = np.stack(pixels) if pixels else np.empty((0, height, width, 3), np.uint8)
        return _Shipped(torch.from_numpy(stacked), targets, torch.tensor(index, dtype=torch.int64), bad, dropped)

    def _target(self, done: Augmented, draw: Draw, size: tuple[int, int]) -> dict[str, Any]:
        labels, crowd = np.empty(len(done.rows), np.int64), np.empty(len(done.rows), bool)
        for owner in np.unique(done.owners).tolist():
            truth, mine = self.images.annotation(owner), done.owners == owner
            labels[mine], crowd[mine] = truth.labels[done.rows[mine]], truth.crowd[done.rows[mine]]
        return {
            "boxes": _shares(done.boxes, size),
            "labels": torch.from_numpy(labels),
            "crowd": torch.from_numpy(crowd),
            "image_id": self.images.image_id(draw.index),
            "original_size": done.original_size,
        }

    def _evaluated(self, draw: Draw) -> tuple[np.ndarray, dict[str, Any]]:
        image, _, size = self.images.whole(draw.index)
        truth = self.images.annotation(draw.index)
        return self.preprocess.pixels(image), {
            "boxes": _shares(placed(truth.boxes, self.preprocess, size), self.preprocess.size),
            "labels": torch.from_numpy(truth.labels),
            "crowd": torch.from_numpy(truth.crowd),
            "image_id": self.images.image_id(draw.index),
            "original_size": size,
            "placement": tuple(self.preprocess.placement(size)),
            "original_boxes": torch.from_numpy(truth.boxes),
            "area": torch.from_numpy(truth.area),
        }


def _shares(boxes: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """xyxy in pixels of an input of (H, W) -> cxcywh as shares of its sides."""
    height, width = size
    xyxy = boxes / np.array([width, height, width, height], np.float32)
    center, extent = (xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]
    return torch.from_numpy(np.concatenate([center, extent], axis=1).astype(np.float32))


class BoxLoader:
    """Iterates over `BoxBatch`. `bad` lists the files met so far that could not be decoded.

    tell: is told once, after `epoch_steps` batches, how many boxes the augmentation dropped.
    """

    def __init__(
        self,
        images: BoxSet,
        reader: _Reader,
        batches: Sequence[_Step] | _Steps,
        *,
        workers: int,
        device: torch.device,
        bad_limit: float = float("inf"),
        epoch_steps: int = 0,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.bad: list[Bad] = []
        self._images, self._reader, self._batches = images, reader, batches
        self._workers, self._device, self._bad_limit = workers, device, bad_limit
        self._bad_indices: set[int] = set()
        self._epoch_steps, self._tell = epoch_steps, tell
        if isinstance(batches, _Steps):
            at_once = batches.batches.batch_size
        else:
            at_once = max((len(step.draws) for step in batches), default=0)
        require_room(workers, at_once, reader.preprocess.size)

    def __len__(self) -> int:
        return len(self._batches)

    def starting_at(self, step: int) -> BoxLoader:
        """The same batches from another step of the run on; `bad` is one list for both."""
        steps = self._batches
        assert isinstance(steps, _Steps)
        other = copy.copy(self)
        other._batches = _Steps(steps.batches.starting_at(step), steps.size, steps.scales, steps.unmixed)
        return other

    def __iter__(self) -> Iterator[BoxBatch]:
        kept = dropped = 0
        for step, shipped in enumerate(run_reader(self._reader, self._batches, self._workers, self._device), 1):
            self._collect(shipped.bad)
            if self._tell is not None and step <= self._epoch_steps:
                kept += sum(len(target["labels"]) for target in shipped.targets)
                dropped += shipped.dropped
                if step == self._epoch_steps and dropped:
                    self._tell(_dropped(kept, dropped))
            if len(shipped.index) == 0:
                continue
            pixels = shipped.pixels.to(self._device, non_blocking=True)
            yield BoxBatch(self._reader.preprocess.tensor(pixels), shipped.targets, shipped.index)

    def _collect(self, bad: list[tuple[int, str]]) -> None:
        for index, reason in bad:
            if index not in self._bad_indices:
                self._bad_indices.add(index)
                self.bad.append(Bad(self._images.name(index), reason))
        if len(self.bad) > self._bad_limit:
            raise UserError(
                f"{len(self.bad)} of {len(self._images)} training images cannot be used, more than {BAD_SHARE:.0%}: "
                f"{shown([item.name for item in self.bad])}. Replace or remove them. The first: {self.bad[0].reason}"
            )


def _dropped(kept: int, dropped: int) -> str:
    share = dropped / (kept + dropped)
    return (
        f"augmentation: of {kept + dropped:,} boxes in an epoch {dropped:,} ({share:.1%}) were cut to less than "
        f"{VISIBLE:.0%} of their area and left out"
    )


def box_train_loader(
    images: BoxSet,
    pipeline: BoxPipeline,
    preprocess: Preprocess,
    *,
    batch_size: int,
    epochs: int,
    seed: int = 0,
    start_step: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    repeats: np.ndarray | None = None,
    scales: MultiScale | None = None,
    unmixed: float = 0.0,
    cache: PixelCache | None = None,
    tell: Callable[[str], object] | None = None,
    device: str | torch.device = "cpu",
) -> BoxLoader:
    """All batches of a run from `start_step` on, as `vit.data.load.loader.train_loader` gives them.

    repeats: how often each image comes in an epoch (`vit.data.load.sampling.repeat_factors`); once if left out. scales:
    the size of each step's images; `preprocess.size` if left out. unmixed: share of the run, at its end, in which no
    images are mixed into one. cache: what decoded and resized images are kept in. tell: is told once, after an epoch,
    how many boxes the augmentation dropped.

    Raises UserError, while iterating, when more than BAD_SHARE of the images cannot be decoded.
    """
    if cache is not None:
        images = cache.of_boxes(images, preprocess, exact=pipeline.augment == BoxAugment() and scales is None)
    batches = TrainBatches(
        len(images), batch_size, epochs, seed=seed, start_step=start_step, rank=rank, world=world, repeats=repeats
    )
    reader = _Reader(images, preprocess, pipeline, seed)
    limit = max(1, BAD_SHARE * len(images))
    steps = _Steps(batches, preprocess.size, scales, round(batches.steps * (1 - unmixed)))
    return BoxLoader(
        images, reader, steps, workers=workers, device=torch.device(device), bad_limit=limit,
        epoch_steps=batches.steps_per_epoch, tell=tell,
    )  # fmt: skip


def box_eval_loader(
    images: BoxSet,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    cache: PixelCache | None = None,
    device: str | torch.device = "cpu",
) -> BoxLoader:
    """Every image once, in order; what cannot be decoded is left out, never replaced, and listed in `.bad`."""
    if cache is not None:
        images = cache.of_boxes(images, preprocess, exact=True)
    batches = [_Step(draws, preprocess.size) for draws in EvalBatches(len(images), batch_size, rank=rank, world=world)]
    reader = _Reader(images, preprocess, None, seed=0)
    return BoxLoader(images, reader, batches, workers=workers, device=torch.device(device))
