"""A training loader from one set of options, as parametrized tests hold them."""

from vit.data import LabelReader, LoaderOptions, train_loader
from vit.data.augment.boxes import BoxPipeline
from vit.data.load.box_reader import BoxReader
from vit.data.load.sampling import balanced_weights

OF_READER = ("seed", "mix", "scales", "unmixed")
OF_LOADER = ("repeats", "log")


def training(images, pipeline, *, balanced=False, **options):
    """The loader of images with labels or boxes, whichever the pipeline is for, at its input size."""
    kind = BoxReader if isinstance(pipeline, BoxPipeline) else LabelReader
    chosen = {key: options.pop(key) for key in OF_READER if key in options}
    reader = kind(images, pipeline.preprocess, pipeline, **chosen)
    rest = {key: options.pop(key) for key in OF_LOADER if key in options}
    if balanced:
        rest["weights"] = balanced_weights(images.targets, len(images.classes))
    return train_loader(reader, LoaderOptions(**options), **rest)
