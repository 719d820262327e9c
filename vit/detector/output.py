"""The output of a detector: the contract between model, loss, matcher and postprocessing.

Letters: B batch, Q queries of all groups, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Predictions(NamedTuple):
    """Predictions of one decoder layer."""

    logits: Tensor
    """[B, Q, C], one sigmoid a class; there is no "background" class."""
    boxes: Tensor
    """[B, Q, 4], cxcywh as shares of the input's width and height."""


class DenoisedOutput(NamedTuple):
    """Predictions of the queries that start from noised boxes of the objects."""

    layers: Sequence[Predictions]
    """One for each decoder layer."""
    owner: Tensor
    """int64 [B, Q], on the CPU: the object of its image that each query starts from; -1 in images without any."""


class DetectorOutput(NamedTuple):
    last: Predictions
    """Of the last decoder layer."""
    earlier: Sequence[Predictions] = ()
    """Of the decoder layers before it; empty in evaluation."""
    selected: Predictions | None = None
    """Of the encoder's cells that became queries; None in evaluation."""
    groups: int = 1
    """Sets of queries side by side; 1 in evaluation."""
    denoised: DenoisedOutput | None = None
    """Only with `config.denoise`, in training, where targets are given."""
