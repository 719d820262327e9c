"""The figures of a split."""

from tests.regression.metrics import RegressionMetrics
from tests.regression.predict import load
from vit.data.load.label_reader import LabelReader
from vit.data.load.loader import LoaderOptions, eval_loader
from vit.tasks.evaluation import Evaluation, split_of
from vit.tasks.evaluation import evaluate as evaluate_batches


def evaluate(checkpoint, data, options, *, calibrated=False):
    options.refuse(str(checkpoint), "classifiers and detectors", knn=options.knn, tile=options.tile, tta=options.tta)
    predictor, split = load(checkpoint, device=options.device), split_of(data, options.split)
    images = data.splits()[split]
    reader = LabelReader(images, predictor.preprocess)
    batches = eval_loader(reader, LoaderOptions(options.batch_size, device=predictor.device))
    metrics, index = evaluate_batches(
        predictor.model, lambda batch: predictor.model(batch.images)[:, 0], batches, RegressionMetrics()
    )
    result = {"task": "regression", "split": split, "data": data.source, **metrics.compute()}
    return Evaluation(result, metrics, index, images)


def calibrate(checkpoint, data, options):
    return {}
