"""A step that was left out is repeated, and where it went wrong is named."""

from types import SimpleNamespace

import pytest
import torch

from tests.small_data import write_digits
from vit.commands import replay as train_replay
from vit.commands import train
from vit.errors import UserError
from vit.model.classifier import create
from vit.tasks.classification.loss import ClassificationLoss
from vit.tasks.classification.task import Classification
from vit.training.replay import examine


def toy():
    torch.manual_seed(0)
    model = create("vit_nano4", num_classes=3, image_size=8, width=16, heads=2, mlp=32, depth=2)
    return Classification(model, ["a", "b", "c"], ClassificationLoss(3))


def batch():
    return SimpleNamespace(
        images=torch.randn(4, 3, 8, 8), targets=torch.tensor([0, 1, 2, 0]), index=torch.arange(40, 44)
    )


def test_where_it_begins_is_named():
    (loss, nothing) = examine(toy(), batch(), None)
    assert loss.startswith("Loss: cross_entropy 1.") and nothing.startswith("Everything is finite here")
    bad = batch()
    bad.images[2, 0, 0, 0] = float("nan")
    told = examine(toy(), bad, None)
    assert told[0] == "Non-finite pixels: images 42 of the training set."
    assert told[1].startswith("First layer with a non-finite output: encoder.patch_embed")
    assert told[2] == "Loss: cross_entropy nan." and told[3].startswith("Non-finite gradients: encoder.")
    task = toy()
    with torch.no_grad():
        for layer in (task.model.encoder.blocks[1].mlp.fc1, task.model.encoder.blocks[1].mlp.fc2):
            layer.weight.normal_(std=1e30)
    told = examine(task, batch(), None)
    assert told[0].startswith("First layer with a non-finite output: encoder.blocks.1.mlp.fc2")
    task = toy()
    with torch.no_grad():  # what goes wrong between two layers is seen by the next that computes
        task.model.encoder.blocks[1].attn.qkv.bias.fill_(1e30)
    assert examine(task, batch(), None)[0].endswith("non-finite output: encoder.blocks.1.attn.proj (Linear).")


@pytest.mark.slow
def test_a_step_of_a_run_is_repeated(tmp_path, capsys, monkeypatch):
    import vit.training.engine

    data, run = write_digits(tmp_path / "digits", 12), tmp_path / "run"
    options = ["--data", str(data), "--out", str(run), "--epochs", "2", "--batch-size", "24", "--device", "cpu"]
    calls, step, seen = iter(range(100)), vit.training.engine.train_step, []

    def poisoned(task, batch, *more):
        if next(calls) != 5:
            return step(task, batch, *more)
        seen.append(batch)
        images = batch.images.clone()
        images[3] = float("inf")
        return step(task, batch._replace(images=images), *more)

    with monkeypatch.context() as patch:
        patch.setattr(vit.training.engine, "train_step", poisoned)
        train.main(["folder", *options])
    told = capsys.readouterr().out
    assert "Skipped step 5" in told and "vitral replay" in told
    # The very same batch comes again; here it is finite, since the fault was not in the data.
    taken = []
    monkeypatch.setattr("vit.training.replay.examine", lambda task, batch, amp: taken.append(batch) or ["looked"])
    train_replay.main([str(run), "5"])
    assert torch.equal(taken[0].images, seen[0].images) and torch.equal(taken[0].index, seen[0].index)
    with pytest.raises(UserError, match=r"has not kept step 6; it has step-5"):
        train_replay.main([str(run), "6"])
