"""--batch-size auto: the search, and that without a GPU nothing is measured."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from tests.small_data import write_squares
from vit.tasks.facts import facts_of
from vit.tasks.run import Run
from vit.tasks.table import base_of_recipe, task_of_recipe
from vit.training.budget import batch_that_fits, largest, repeated


class Batch(NamedTuple):
    images: torch.Tensor
    targets: object
    index: torch.Tensor


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 15, 16, 40, 100, 1000, 5000])
@pytest.mark.parametrize("most", [1, 5, 64, 100, 4096])
def test_the_largest_that_fits_is_found_to_an_eighth(limit, most):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= limit

    found, truth = largest(fits, most), max(1, min(limit, most))
    assert found <= truth and (found == 1 or found <= limit)
    assert found >= truth - max(1, truth // 8) - 7 * (truth >= 16)
    assert found < 16 or found % 8 == 0 or found == most
    assert len(tried) <= 2 * max(1, most.bit_length()) and max(tried, default=0) <= most


def test_a_batch_is_repeated():
    sample = Batch(torch.arange(3.0).view(3, 1, 1, 1), [{"a": 0}, {"a": 1}, {"a": 2}], torch.arange(3))
    batch = repeated(sample, 7)
    assert batch.images.flatten().tolist() == [0, 1, 2, 0, 1, 2, 0] and [t["a"] for t in batch.targets][-1] == 0
    assert repeated(sample._replace(targets=torch.arange(3)), 4).targets.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(("name", "usual"), [("digits", None), ("detect", 16)])
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys, name, usual):
    data = "digits" if name == "digits" else str(write_squares(tmp_path / "squares", {"train": 4}))
    recipe = replace(base_of_recipe(name), data=data, batch_size="auto", augment="none", image_size=32)
    row = task_of_recipe(name)
    data, start = row.part("feed").open_data(recipe), row.part("build").begin(recipe)
    run = Run(recipe, data, facts_of(data), torch.device("cpu"), start=start)
    assert batch_that_fits(row, run) == usual
    assert "needs a GPU to measure" in capsys.readouterr().out
