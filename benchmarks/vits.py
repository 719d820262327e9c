"""The same plain ViT from five libraries, with new weights: ours, timm's, transformers', torchvision's, vit-pytorch's.

Images float32 [B, 3, side, side] -> logits [B, K]. All have learned positions, a class token that is pooled, GELU and
biases; vit-pytorch has no bias of queries, keys and values, and two more norms around its patch embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vit.model.config import SIZES, ClassifierConfig, EncoderConfig, Size


@dataclass(frozen=True)
class Shape:
    size: Size
    patch: int
    side: int
    classes: int = 1000

    @classmethod
    def of(cls, size: str, side: int, patch: int = 16, classes: int = 1000) -> Shape:
        return cls(SIZES[size], patch, side, classes)

    @property
    def tokens(self) -> int:
        return (self.side // self.patch) ** 2 + 1

    def flops(self) -> float:
        """Of one image forward, a multiply-add as two: the linear layers and the two products of attention."""
        width, depth, _, mlp = self.size
        n, patches = self.tokens, self.tokens - 1
        block = 2 * n * (4 * width**2 + 2 * width * mlp) + 4 * n * n * width
        return depth * block + 2 * patches * 3 * self.patch**2 * width + 2 * width * self.classes


def ours(s: Shape) -> nn.Module:
    from vit.model.classifier import Classifier

    encoder = EncoderConfig(*s.size, patch_size=s.patch, image_size=(s.side, s.side), prefix_positions=1)
    return Classifier(ClassifierConfig(encoder, num_classes=s.classes))


def timm(s: Shape) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    width, depth, heads, mlp = s.size
    return VisionTransformer(
        img_size=s.side, patch_size=s.patch, embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=mlp / width,
        num_classes=s.classes,
    )  # fmt: skip


def transformers(s: Shape) -> nn.Module:
    from benchmarks.detectors import transformers

    hf = transformers()
    width, depth, heads, mlp = s.size
    config = hf.ViTConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=mlp,
        image_size=s.side, patch_size=s.patch, num_labels=s.classes, attn_implementation="sdpa",
    )  # fmt: skip
    return Logits(hf.ViTForImageClassification(config))


class Logits(nn.Module):
    """A model of transformers, which gives its logits among other things."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def torchvision(s: Shape) -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    width, depth, heads, mlp = s.size
    return VisionTransformer(s.side, s.patch, depth, heads, width, mlp, num_classes=s.classes)


def vit_pytorch(s: Shape) -> nn.Module:
    from vit_pytorch.vit import ViT  # pyright: ignore[reportMissingImports]

    width, depth, heads, mlp = s.size
    return ViT(
        image_size=s.side, patch_size=s.patch, num_classes=s.classes, dim=width, depth=depth, heads=heads,
        dim_head=width // heads, mlp_dim=mlp,
    )  # fmt: skip


MODELS: dict[str, Callable[[Shape], nn.Module]] = {
    "ours": ours,
    "timm": timm,
    "transformers": transformers,
    "torchvision": torchvision,
    "vit-pytorch": vit_pytorch,
}
