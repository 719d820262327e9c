"""A checkpoint and images -> numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.predict.predictor import Streaming, pick_device, source_entry
from vit.runs.checkpoint import load_model

OPTIONS = ()


@dataclass(frozen=True)
class Number:
    value: float
    source: Any = None

    def text(self, k=None):
        return f"{self.value:.4f}"

    def to_dict(self, k=None):
        return {**source_entry(self.source), "value": self.value}


class NumberPredictor(Streaming[Any, Number]):
    def __init__(self, model, config, device):
        self.device = pick_device(device)
        self.model, self.config = model.eval().to(self.device), config
        self.preprocess = Preprocess.from_dict(config["preprocess"])

    def prepare(self, image):
        return self.preprocess.pixels(image)

    @torch.no_grad()
    def answer(self, prepared, sources):
        values = self.model(self.preprocess.tensor(torch.from_numpy(np.stack(prepared)).to(self.device)))[:, 0]
        return [Number(value, source) for value, source in zip(values.tolist(), sources, strict=True)]


def load(checkpoint, *, device="auto", **options):
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{checkpoint} gives numbers: {name} is not for it.")
    return NumberPredictor(*load_model(checkpoint, task="regression"), device)
