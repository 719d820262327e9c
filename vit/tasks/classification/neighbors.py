"""k-nearest-neighbor classification on frozen features, of a checkpoint or of public weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vit.data.load.label_reader import Batch, LabelReader
from vit.data.load.loader import Loader, LoaderOptions, eval_loader
from vit.data.open import open_data
from vit.data.sets.data import Data
from vit.data.sets.features import Features
from vit.errors import UserError, shown
from vit.predict.progress import progress
from vit.tasks.classification.features import open_encoder
from vit.tasks.classification.metrics import ClassificationMetrics
from vit.tasks.classification.predict import Predictor
from vit.tasks.evaluation import Evaluation, split_of
from vit.tasks.evaluation_options import EvaluationOptions

TEMPERATURE = 0.07
CHUNK = 1024


def neighbors(
    k: int, predictor: Predictor, classes: Sequence[str], queries: Loader[Batch], memory: Loader[Batch]
) -> tuple[Evaluation, dict[str, Any]]:
    """k-NN on frozen features, with the images of `memory` as the labeled examples; and its main metrics."""
    sets = []
    for loader in (memory, queries):
        features = Features.of(loader, predictor.features, progress(len(loader.images)))
        if not len(features.index):
            raise UserError(f"--knn: none of the images can be read. The first: {loader.bad[0].reason}")
        sets.append(features)
    reference, query = sets
    logits = knn_logits(query.values, reference.values, reference.targets, k, num_classes=len(classes))
    metrics = ClassificationMetrics(classes, query.targets.ndim == 2, keep_logits=True)
    metrics.update(logits, query.targets)
    result = metrics.compute() | {"temperature": None, "ece_calibrated": None}
    evaluation = Evaluation(result, metrics, query.index.tolist(), None)
    return evaluation, {"k": k, "memory": len(reference.index), **headline(result)}


def headline(result: Mapping[str, Any]) -> dict[str, Any]:
    """The main metrics of another way to classify the same images."""
    return {key: result[key] for key in ("n", "top1", "top5", "macro_f1", "map") if key in result}


def require_memory(data: Data) -> None:
    """Raises UserError unless the data has the training split, whose images are the labeled examples."""
    splits = data.splits()
    if "train" not in splits:
        available = shown([f"{name} ({len(images)} images)" for name, images in splits.items()])
        raise UserError(f"{data.source} has no train split, which --knn needs; it has {available}.")


def evaluate_public(question: Any, options: EvaluationOptions, log: Callable[[str], object]) -> Evaluation:
    """Evaluate public weights, which have no head for the data's classes, by nearest neighbors on their features.

    question: a `vit.tasks.checkpoints.Question`. log: called with each note for the user.
    """
    others = options.tta or options.tile is not None or options.nms is not None
    if question.data is None or options.knn is None or others:
        raise UserError(
            f"{question.checkpoint} has no head for the classes of your data. Evaluate its features by nearest "
            "neighbors, with --data and --knn 20, without --tta, --tile and --nms; or train a head: vitral train probe."
        )
    data = open_data(question.data, kind="labels", format=question.format)
    split, splits = split_of(data, options.split), data.splits()
    require_memory(data)
    size, device = question.image_size, options.device
    encoder, notes = open_encoder(question.checkpoint, model=question.model, image_size=size, device=device)
    for note in (*data.notes, *notes):
        log(note)
    loading = LoaderOptions(options.batch_size, workers=options.workers, device=encoder.device)
    queries, memory = (eval_loader(LabelReader(splits[name], encoder.preprocess), loading) for name in (split, "train"))
    evaluation, knn = neighbors(options.knn, encoder, data.classes, queries, memory)
    result: dict[str, Any] = {"task": "classification", "split": split, "data": data.source, **evaluation.result}
    result |= {"knn": knn, "unreadable": [bad._asdict() for bad in queries.bad]}
    return Evaluation(result, evaluation.metrics, evaluation.index, splits[split])


@torch.no_grad()
def knn_logits(queries: Tensor, memory: Tensor, labels: Tensor, k: int, *, num_classes: int) -> Tensor:
    """Classify by the k nearest neighbors in cosine similarity, each voting with weight exp(similarity / .07).

    Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (DINO), after Wu et al. 2018,
    section 3.4.

    Args:
        queries: float [n, D].
        memory: float [m, D], with labels int64 [m], or 0/1 [m, K] for multi-label.
        k: number of neighbors; capped at m.

    Returns:
        float32 [n, K], usable as logits: the log of each class's share of the votes, or its log odds if multi-label.

    Raises ValueError for an empty memory or k < 1.
    """
    if not len(memory) or k < 1:
        raise ValueError(f"k-NN needs a memory and k >= 1, got {len(memory)} features and k = {k}.")
    votes = F.one_hot(labels, num_classes).float() if labels.ndim == 1 else labels.float()
    memory, votes = F.normalize(memory.float(), dim=1), votes.to(memory.device)
    shares = []
    for chunk in queries.split(CHUNK):
        near = (F.normalize(chunk.float(), dim=1).to(memory.device) @ memory.T).topk(min(k, len(memory)), dim=1)
        # The softmax normalizes the weights exp(s / T) without overflow.
        weights = (near.values / TEMPERATURE).softmax(1)
        shares.append((weights[:, :, None] * votes[near.indices]).sum(1))
    share = torch.cat(shares)
    # A class without votes ranks last but stays finite.
    return share.logit(eps=1e-7) if labels.ndim == 2 else share.clamp(min=1e-12).log()
