"""--minutes: the number of epochs that end within a time."""

import pytest

from vit.tasks.classification.recipe import Recipe
from vit.tasks.classification.settle import settle
from vit.tasks.facts import Facts
from vit.training.budget import FORWARD, REST, fitting_epochs

FACTS = Facts(3200, 10, (480, 640), False, (0.5,) * 3, (0.2,) * 3)
STEPS = 50


def settled(epochs, **options):
    return settle(Recipe(recipe="folder", data="x", epochs=epochs, **options), FACTS)[0]


def seconds(epochs, step_seconds, evaluated, reported):
    """What a run takes by the model of the module, counted evaluation by evaluation."""
    every = max(1, epochs // 15)
    evaluations = sum(1 for epoch in range(1, epochs + 1) if epoch % every == 0 or epoch == epochs)
    images = evaluations * evaluated + reported
    return epochs * STEPS * step_seconds + FORWARD * images / 64 * step_seconds + REST


@pytest.mark.parametrize("minutes", [1, 10, 60, 600])
@pytest.mark.parametrize("step_seconds", [0.01, 0.3, 4.0])
@pytest.mark.parametrize("evaluated", [0, 800, 5000])
def test_the_run_ends_in_time_and_a_longer_one_would_not(minutes, step_seconds, evaluated):
    sizes = {"step_seconds": step_seconds, "steps_per_epoch": STEPS, "evaluated": evaluated, "reported": 1000}
    epochs = fitting_epochs(minutes, 100, settled, **sizes)
    assert 1 <= epochs <= 100
    longer = [e for e in range(1, 101) if seconds(e, step_seconds, evaluated, 1000) <= 60 * minutes]
    assert epochs == max(longer, default=1)


def test_at_least_an_epoch_after_those_of_the_head_alone():
    sizes = {"step_seconds": 100.0, "steps_per_epoch": STEPS, "evaluated": 0, "reported": 0}
    assert fitting_epochs(1, 100, settled, **sizes) == 1
    assert fitting_epochs(1, 100, lambda epochs: settled(epochs, weights="RUN", head_epochs=5), **sizes) == 6


def test_never_longer_than_what_was_asked_for():
    sizes = {"step_seconds": 1e-3, "steps_per_epoch": 1, "evaluated": 0, "reported": 0}
    assert fitting_epochs(1e6, 7, settled, **sizes) == 7
