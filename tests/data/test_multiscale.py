"""Another input size at every step, resumed and read by workers."""

import numpy as np
import pytest
import torch

from vit.data.augment.boxes import BOX_AUGMENTS, BoxPipeline
from vit.data.augment.multiscale import MultiScale
from vit.data.load.box_reader import BoxReader
from vit.data.load.loader import LoaderOptions, train_loader
from vit.data.open import open_data
from vit.errors import UserError
from vit.images.preprocess import Preprocess


def test_sizes_are_multiples_within_the_range():
    scales = MultiScale((128, 128), 16, 0.25)
    assert scales.sizes == [(96, 96), (112, 112), (128, 128), (144, 144), (160, 160)]
    # The ratio of the sides is kept as well as the divisor lets it.
    assert MultiScale((64, 128), 16, 0.25).sizes == [(48, 96), (64, 112), (64, 128), (64, 144), (80, 160)]
    assert MultiScale((64, 64), 16, 0.99).sizes[0] == (16, 16)


def test_a_size_is_a_function_of_seed_and_step_and_all_are_as_likely():
    scales, other = MultiScale((128, 128), 16, 0.25, seed=3), MultiScale((128, 128), 16, 0.25, seed=4)
    sizes = [scales.at(step) for step in range(4000)]
    assert sizes == [MultiScale((128, 128), 16, 0.25, seed=3).at(step) for step in range(4000)]
    assert sizes != [other.at(step) for step in range(4000)]
    counts = np.array([sizes.count(size) for size in scales.sizes])
    assert ((counts - 800) ** 2 / 800).sum() < 18.5  # chi-squared with 4 degrees of freedom, p = 0.001


def test_a_range_without_another_size_is_told():
    with pytest.raises(UserError, match=r"leaves one size of 128x128 pixels in steps of 64.*least.* is 0\.50"):
        MultiScale((128, 128), 64, 0.25)
    for spread in (1.0, -0.5):
        with pytest.raises(UserError, match="between 0 and 1"):
            MultiScale((128, 128), 16, spread)


def test_batches_have_the_step_s_size_whoever_reads_them_and_wherever_they_start():
    preprocess = Preprocess((64, 96), resize="letterbox")
    data = open_data("scenes", kind="boxes").train.select(np.arange(8))
    pipeline, scales = BoxPipeline(BOX_AUGMENTS["lsj"], preprocess), MultiScale((64, 96), 16, 0.5, seed=1)

    def run(workers: int, start: int):
        return list(
            train_loader(
                BoxReader(data, preprocess, pipeline, scales=scales),
                LoaderOptions(batch_size=2, epochs=3, start_step=start, workers=workers),
            )
        )

    whole, with_workers, resumed = run(0, 0), run(2, 0), run(0, 5)
    assert [tuple(batch.images.shape[2:]) for batch in whole] == [scales.at(step) for step in range(12)]
    assert len({batch.images.shape for batch in whole}) > 3
    for a, b in [*zip(whole, with_workers, strict=True), *zip(whole[5:], resumed, strict=True)]:
        assert torch.equal(a.images, b.images)
        assert all(torch.equal(s["boxes"], t["boxes"]) for s, t in zip(a.targets, b.targets, strict=True))


def test_boxes_follow_the_pixels_at_every_size():
    """Shares of the sides need no change: the same draw at two sizes shows the objects in the same place."""
    data = open_data("scenes", kind="boxes").train.select(np.arange(4))
    preprocess = Preprocess((128, 128), resize="squash")
    pipeline = BoxPipeline(BOX_AUGMENTS["light"], preprocess)
    for i in range(4):
        truth = data.annotation(i)
        done, half = (p(data.image(i), truth.boxes, 7) for p in (pipeline, pipeline.at((64, 64))))
        assert half.pixels.shape == (64, 64, 3)
        assert np.allclose(done.boxes / 128, half.boxes / 64, atol=1e-6)
        small = done.pixels.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(small - half.pixels).mean() < 12
