"""The detector: encoder, neck, selection, decoder, heads.

Letters: B batch, G groups (1 in evaluation), Q queries of a group, D width, C classes, M cells of all maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vit.detector.backbone import tapped_maps
from vit.detector.config import DetectorConfig
from vit.detector.decoder import Decoder
from vit.detector.deformable import DeformableAttention
from vit.detector.denoising import noised_boxes
from vit.detector.heads import PRIOR, ReluMlp, apply_delta, box_head
from vit.detector.neck import Neck
from vit.detector.output import DenoisedOutput, DetectorOutput, Predictions
from vit.detector.selection import Selection, anchors
from vit.model.encoder import Encoder
from vit.model.linear import Linear


class Detector(nn.Module):
    """images [B, C, H, W] -> `DetectorOutput`. H and W are multiples of `config.divisor` and need not be equal.

    targets: `boxes` of each image (cxcywh in 0..1), used with `config.denoise`.
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        c = self.config = config
        self.encoder = Encoder(c.encoder)
        if c.encoder.final_norm and not c.tap_norm:
            # It would be unused, and a parameter without a gradient is an error.
            self.encoder.norm = nn.Identity()
        self.neck = Neck(c)
        self.selection = nn.ModuleList(Selection(c.width, c.num_classes, c.queries) for _ in range(c.groups))
        self.query = nn.Parameter(torch.empty(c.groups * c.queries, c.width))
        self.query_box = nn.Parameter(torch.empty(c.groups * c.queries, 4))
        # The name is a key in stored checkpoints, as everywhere in this class.
        self.shaken_query = nn.Parameter(torch.empty(1, 1, c.width)) if c.denoise else None
        self.decoder = Decoder(c)
        self.class_head = Linear(c.width, c.num_classes)
        self.box_head = box_head(c.width)
        init_detector(self)

    def forward(self, images: Tensor, targets: Sequence[dict[str, Any]] | None = None) -> DetectorOutput:
        c, training = self.config, self.training
        groups = c.groups if training else 1
        maps = self.neck(tapped_maps(self.encoder, images, c))
        grids = [(x.shape[-2], x.shape[-1]) for x in maps]
        cells = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)  # [B, M, D]
        boxes, usable = anchors(grids, images.device)
        chosen = [self.selection[g](cells, boxes, usable) for g in range(groups)]
        logits, start = (torch.cat(parts, dim=1) for parts in zip(*chosen, strict=True))
        count = start.shape[1] // groups

        def learned(table: Tensor) -> Tensor:  # [1, G * Q, ...]
            return table.unflatten(0, (c.groups, c.queries))[:groups, :count].flatten(0, 1)[None]

        # The selection learns from its own loss; no gradient of later layers reaches it.
        reference = apply_delta(start.detach(), learned(self.query_box))
        x = learned(self.query).expand(len(images), -1, -1).to(cells.dtype)
        owner = None
        if training and targets is not None and self.shaken_query is not None:
            boxes, owner = noised_boxes(targets, count, images.device)
            reference = torch.cat([reference, boxes], dim=1)
            x = torch.cat([x, self.shaken_query.expand(len(images), count, -1).to(x.dtype)], dim=1)
        outputs = self.decoder(x, reference, cells, grids, groups if owner is None else groups + 1)
        kept = outputs if training else outputs[-1:]
        layers = [Predictions(self.class_head(y), apply_delta(reference, self.box_head(y))) for y in kept]
        denoised, found = None, groups * count
        if owner is not None:
            denoised = DenoisedOutput([Predictions(y.logits[:, found:], y.boxes[:, found:]) for y in layers], owner)
            layers = [Predictions(y.logits[:, :found], y.boxes[:, :found]) for y in layers]
        selected = Predictions(logits, start) if training else None
        return DetectorOutput(layers[-1], layers[:-1], selected, groups, denoised)


def init_detector(model: Detector) -> None:
    """Initialize everything but the encoder (see `vit.model.encoder.init_weights`).

    | what                                      | how                                                       |
    |-------------------------------------------|-----------------------------------------------------------|
    | linear layers of decoder and selection    | Xavier uniform, bias 0                                    |
    | convolutions of the neck                  | as torch does                                             |
    | last layer of box heads                   | 0: a box starts as its anchor                             |
    | class heads                               | Xavier uniform, bias -log(99): every score starts at 1 %  |
    | queries, also for denoising               | normal, std 1; their boxes 0                              |
    | deformable attention                      | `DeformableAttention.init_weights`                        |
    """
    if model.query.is_meta:
        return
    for part in (model.selection, model.decoder, model.class_head, model.box_head):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
    for name, module in model.named_modules():
        if isinstance(module, DeformableAttention):
            module.init_weights()
        elif isinstance(module, nn.Linear) and name.endswith("class_head"):
            nn.init.constant_(module.bias, PRIOR)
        elif isinstance(module, ReluMlp) and name.endswith("box_head"):
            nn.init.zeros_(module.layers[-1].weight)  # pyright: ignore[reportArgumentType]
    nn.init.normal_(model.query)
    if model.shaken_query is not None:
        nn.init.normal_(model.shaken_query)
    nn.init.zeros_(model.query_box)
