"""FLOPs of a detector, by formula."""

from __future__ import annotations

from vit.detector.config import DetectorConfig


def detector_flops(c: DetectorConfig, side: int) -> int:
    """FLOPs of the matrix products for one square image in evaluation, counted as torch's FlopCounterMode does, for
    encoders with a linear stem. Sampling in deformable attention is not a matrix product."""
    patches = (side // c.encoder.patch_size) ** 2
    neck = sum(_map(c, scale, patches) for scale in c.scales)
    return _encoder(c, patches) + neck + _head(c, sum(round(patches * scale**2) for scale in c.scales))


def _encoder(c: DetectorConfig, patches: int) -> int:
    e, windows = c.encoder, c.windows**2
    tokens = patches + windows * e.prefix  # every window has its own prefix
    feed_forward = (3 if e.feed_forward == "swiglu" else 2) * e.width * e.mlp
    layers = 2 * tokens * (4 * e.width**2 + feed_forward)
    everywhere = 4 * tokens**2 * e.width
    scores = sum(everywhere if windows == 1 or i in c.global_blocks else everywhere // windows for i in range(e.depth))
    return 2 * patches * e.in_chans * e.patch_size**2 * e.width + e.depth * layers + scores


def _map(c: DetectorConfig, scale: float, patches: int) -> int:
    """FLOPs of one scale of the neck."""
    width, half, cells = c.encoder.width, c.width // 2, round(patches * scale**2)
    after, resize = width, 0
    if scale < 1:
        resize = cells * 9 * width**2
    elif scale > 1 and c.neck_squeeze:
        after = width // 4
        resize = patches * (width * width // 2 + 4 * (width // 2) * after)
    elif scale > 1:
        after = width // 2
        resize = patches * 4 * width * after
    mix = after * len(c.taps) * 2 * half + c.neck_blocks * 2 * 9 * half**2 + (2 + c.neck_blocks) * half * c.width
    return 2 * (len(c.taps) * resize + cells * mix)


def _head(c: DetectorConfig, cells: int) -> int:
    d, q = c.width, min(c.queries, cells)
    boxes, samples = 2 * d**2 + 4 * d, c.sampling_heads * len(c.scales) * c.points
    selection = cells * (d**2 + d * c.num_classes) + q * boxes
    layer = q * (4 * d**2 + 2 * q * d + 3 * d * samples + d**2 + 2 * d * c.mlp) + cells * d**2
    return 2 * (selection + q * 3 * d**2 + c.layers * layer + q * (d * c.num_classes + boxes))
