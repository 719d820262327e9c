"""Random weights large enough to tell a wrong variant. Imports nothing of ours: Hugging Face's process reads it too."""

import torch


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Activations of order 1 in every layer (at std .02 a wrong GELU would hide below 1e-7), and a small variance
    before the first norm (which shows a wrong eps)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        leaf = name.rsplit(".", 1)[-1]
        if "rope" in name:
            value = parameter.detach()  # frequencies have a meaning
        elif leaf.endswith("bias"):
            value = (0.02 if "patch" in name or "conv" in name else 0.3) * noise
        elif "position" in name and "relative" not in name:
            value = 0.03 * noise
        elif parameter.ndim == 1 and "class_embedding" not in name:
            value = 0.7 + 0.3 * noise  # norms and LayerScale
        elif any(part in name for part in ("pos_embed", "token", "latent", "probe", "class_embedding")):
            value = 0.03 * noise
        elif "relative" in name:
            value = 2 * noise
        else:
            gain = 0.05 if "patch" in name or "conv" in name else 1.5
            value = gain * noise / parameter[0].numel() ** 0.5
        parameter.data.copy_(value)


def images(h: int, w: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, h, w, generator=torch.Generator().manual_seed(h * 1000 + w))
