"""LoRA: low-rank updates of the blocks' linear layers (Hu et al. 2021), and merging them into the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vit.errors import UserError
from vit.model.classifier import Classifier
from vit.model.linear import Linear, linear

STACKED = {"qkv": 3, "w12": 2}
"""Layers that stack several matrices: queries, keys and values; the two inputs of SwiGLU."""


class LoraLinear(Linear):
    """W x + alpha / r * B A x (section 4.1, eq. 3), [..., in] -> [..., out]. W and its bias are those of
    `linear`.

    Each of the `parts` matrices that W stacks has its own A and B: lora_a [parts, r, in], lora_b
    [parts, out / parts, r]. A is uniform within 1 / sqrt(in) (as in loralib and peft: Kaiming, a = sqrt 5) and
    B is 0, so that a new update changes nothing.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, parts: int = 1):
        inputs, outputs = linear.in_features, linear.out_features
        super().__init__(inputs, outputs, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(linear.weight.new_empty(parts, rank, inputs))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(parts, outputs // parts, rank))
        nn.init.uniform_(self.lora_a, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        down = linear(x, self.lora_a.flatten(0, 1))  # [..., parts * r]
        return super().forward(x) + linear(down, self.scale * torch.block_diag(*self.lora_b))


def add_lora(model: Classifier, rank: int, alpha: float, *, first_block: int = 0) -> int:
    """Give every linear layer of the blocks from `first_block` on an update of this rank; returns how many.

    Only the updates and the head remain trainable. Raises UserError if the rank is above that of a layer.
    """
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    layers = [
        (module, name, layer)
        for block in model.encoder.blocks[first_block:]
        for module in block.modules()
        for name, layer in module.named_children()
        if isinstance(layer, nn.Linear)
    ]
    for module, name, layer in layers:
        parts = STACKED.get(name, 1)
        rows, columns = layer.out_features // parts, layer.in_features
        if rank > min(rows, columns):
            raise UserError(
                f"--lora-rank {rank} is above the rank of {name}, a matrix of {rows}x{columns}; "
                f"{min(rows, columns)} is the maximum, 4 to 16 are usual."
            )
        setattr(module, name, LoraLinear(layer, rank, alpha, parts))
    return len(layers)


@torch.no_grad()
def merged(weights: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A state dict with every update added to its matrix: that of the plain model that computes the same.

    A state dict without updates is returned unchanged.
    """
    plain = {name: value for name, value in weights.items() if not name.endswith((".lora_a", ".lora_b"))}
    for name, b in weights.items():
        if name.endswith(".lora_b"):
            layer = name.removesuffix(".lora_b")
            a = weights[f"{layer}.lora_a"]
            plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + alpha / a.shape[1] * (b @ a).flatten(0, 1)
    return plain
