"""Nearest neighbors as a classifier: how good frozen features are, of a checkpoint or of public weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from vit.data.load.loader import Loader, eval_loader
from vit.data.open import open_data
from vit.data.sets.features import Features
from vit.errors import UserError, shown
from vit.predict.progress import progress
from vit.tasks.classification.features import open_encoder
from vit.tasks.classification.knn import knn_logits
from vit.tasks.classification.metrics import ClassificationMetrics
from vit.tasks.classification.predict import Predictor
from vit.tasks.evaluation import Evaluation, EvaluationOptions, split_of


def neighbors(
    k: int, predictor: Predictor, classes: Sequence[str], queries: Loader, memory: Loader
) -> tuple[Evaluation, dict[str, Any]]:
    """k-NN on frozen features, with the images of `memory` as the labeled examples; and its headline figures."""
    found = []
    for loader in (memory, queries):
        features = Features.of(loader, predictor.features, progress(len(loader.targets)))
        if not len(features.index):
            raise UserError(f"--knn: None of the images can be read. The first: {loader.bad[0].reason}")
        found.append(features)
    known, query = found
    logits = knn_logits(query.values, known.values, known.targets, k, num_classes=len(classes))
    metrics = ClassificationMetrics(classes, query.targets.ndim == 2, keep_logits=True)
    metrics.update(logits, query.targets)
    result = metrics.compute() | {"temperature": None, "ece_calibrated": None}
    headline = {key: result[key] for key in ("n", "top1", "top5", "macro_f1", "map") if key in result}
    evaluation = Evaluation(result, metrics, query.index.tolist(), None)
    return evaluation, {"k": k, "memory": len(known.index), **headline}


def evaluate_public(
    weights: str,
    source: str | None,
    options: EvaluationOptions,
    *,
    format: str | None = None,
    model: str | None = None,
    image_size: int | None = None,
) -> Evaluation:
    """Public weights, which have no head for the classes of the data: nearest neighbors on their features classify.

    model: the name that a file of weights needs. image_size: side of the input in pixels; the model's own if left out.
    """
    if source is None or options.knn is None or options.tta or options.tile is not None or options.nms is not None:
        raise UserError(
            f"{weights} has no head for the classes of your data. Its features can be judged by nearest neighbors: "
            "with --data and --knn 20, without --tta, --tile and --nms. vitral train probe trains a head."
        )
    data = open_data(source, format=format)
    for note in data.notes:
        print(note, file=sys.stderr)
    split, splits = split_of(data, options.split), data.splits()
    if "train" not in splits:
        has = shown([f"{name} ({len(images)} images)" for name, images in splits.items()])
        raise UserError(f"{data.source} has no train split; it has {has}. --knn needs it.")
    encoder, notes = open_encoder(weights, model=model, image_size=image_size, device=options.device)
    for note in notes:
        print(note, file=sys.stderr)
    queries, memory = (
        eval_loader(
            splits[name],
            encoder.preprocess,
            batch_size=options.batch_size,
            workers=options.workers,
            device=encoder.device,
        )
        for name in (split, "train")
    )
    evaluation, knn = neighbors(options.knn, encoder, data.classes, queries, memory)
    result: dict[str, Any] = {"task": "classification", "split": split, "data": data.source, **evaluation.result}
    result |= {"knn": knn, "unreadable": [bad._asdict() for bad in queries.bad]}
    return Evaluation(result, evaluation.metrics, evaluation.index, splits[split])
