"""k-nearest neighbours on frozen features: how good the features are, without the head that was trained on them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.07
CHUNK = 1024


@torch.no_grad()
def knn_logits(queries: Tensor, memory: Tensor, labels: Tensor, k: int, *, num_classes: int) -> Tensor:
    """Classify by the k nearest neighbours in cosine similarity, each voting with weight exp(similarity / .07).

    Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO), after Wu et al. 2018,
    section 3.4.

    Args:
        queries: float [n, D].
        memory: float [m, D], with labels int64 [m], or 0/1 [m, K] for multi-label.
        k: neighbours; capped at m.

    Returns:
        float32 [n, K] that stand in for logits: logarithms of the shares of the votes, or log odds of a label's
        share when multi-label.

    Raises ValueError for an empty memory or k < 1.
    """
    if not len(memory) or k < 1:
        raise ValueError(f"k-NN needs a memory and k >= 1, got {len(memory)} features and k = {k}")
    votes = F.one_hot(labels, num_classes).float() if labels.ndim == 1 else labels.float()
    memory, votes = F.normalize(memory.float(), dim=1), votes.to(memory.device)
    shares = []
    for chunk in queries.split(CHUNK):
        near = (F.normalize(chunk.float(), dim=1).to(memory.device) @ memory.T).topk(min(k, len(memory)), dim=1)
        # A softmax is the weights exp(s / T) divided by their sum: the order is the same, and nothing overflows.
        weights = (near.values / TEMPERATURE).softmax(1)
        shares.append((weights[:, :, None] * votes[near.indices]).sum(1))
    share = torch.cat(shares)
    # A class that no neighbour has stays below every other one, and finite.
    return share.logit(eps=1e-7) if labels.ndim == 2 else share.clamp(min=1e-12).log()
