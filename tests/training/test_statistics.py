"""Statistics of batch norms, against torch's own `update_bn`."""

import io
from typing import NamedTuple

import pytest
import torch
from rich.console import Console
from torch.optim.swa_utils import update_bn

from vit.model.classifier import create
from vit.optim.optimizers import Ema, make_optimizers
from vit.optim.schedule import Loop
from vit.tasks.classification.loss import ClassificationLoss
from vit.tasks.classification.task import Classification
from vit.tasks.run import Parts
from vit.training.batch_norm import batch_norms, with_statistics
from vit.training.engine import fit
from vit.training.log import RunLog


class Batch(NamedTuple):
    images: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor = torch.arange(20)


def batches(steps, first=0):
    made = []
    for seed in range(first, first + steps):
        generator = torch.Generator().manual_seed(seed)
        images = 3 + 2 * torch.randn(20, 3, 16, 16, generator=generator)
        made.append(Batch(images, torch.randint(3, (20,), generator=generator)))
    return made


def small(name="vit_nano8_conv", **fields):
    torch.manual_seed(0)
    return create(name, num_classes=3, image_size=16, width=32, heads=2, mlp=64, depth=2, **fields)


def test_they_are_those_of_update_bn():
    model, peer, plain = small(drop_path=0.5, dropout=0.5), small(), batches(4)
    found = with_statistics(model, model.state_dict(), plain)
    update_bn([batch.images for batch in plain], peer)
    expected = peer.state_dict()
    assert found.keys() == expected.keys()
    changed = {name for name in found if not torch.equal(found[name], model.state_dict()[name])}
    assert {name.rsplit(".", 1)[1] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    for name in changed:
        torch.testing.assert_close(found[name], expected[name], msg=name)


def test_the_model_stays_as_it_was_and_nothing_random_is_drawn():
    model, other = small(drop_path=0.5), small()
    for parameter in other.parameters():
        torch.nn.init.uniform_(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.head.eval()
    state, momenta = torch.get_rng_state(), [norm.momentum for norm in batch_norms(model).values()]
    found = with_statistics(model, other.state_dict(), batches(2))
    assert torch.equal(found["head.weight"], other.state_dict()["head.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model.encoder.training and not model.head.training
    assert momenta == [norm.momentum for norm in batch_norms(model).values()] and momenta[0] is not None
    assert torch.equal(state, torch.get_rng_state())


def test_frozen_norms_and_models_without_any_are_left_alone():
    model = small()
    model.encoder.patch_embed.requires_grad_(False)
    plain = small("vit_nano8")
    for each in (model, plain):
        weights = each.state_dict()
        assert with_statistics(each, weights, iter(())) is weights


@pytest.mark.parametrize("average", [False, True])
def test_what_is_judged_and_kept_has_them(tmp_path, average):
    model, plain, kept = small(drop_path=0.1), batches(3, first=50), {}
    task = Classification(model, ["a", "b", "c"], ClassificationLoss(3))
    loop = Loop(steps=4, steps_per_epoch=2)
    optimizers = make_optimizers(model, name="adamw", lr=1e-2, muon_lr=0.02, weight_decay=0.0)

    def save(name, weights, numbers, state):
        kept[name] = {key: value.clone() for key, value in weights.items()}, numbers, state

    with RunLog(tmp_path, steps=4, start=0, console=Console(file=io.StringIO())) as log:
        ema = Ema(model, 0.5) if average else None
        fit(
            Parts(task, batches(4), optimizers, loop, lambda: batches(2, first=90), ema=ema, plain=lambda: plain),
            log,
            save,
        )
    weights, numbers, state = kept["last"]
    peer = small()
    peer.load_state_dict(weights)
    update_bn([batch.images for batch in plain], peer)
    for name, value in peer.state_dict().items():
        torch.testing.assert_close(weights[name], value, msg=name)
    peer.eval()
    with torch.inference_mode():
        right = [(peer(b.images).argmax(1) == b.targets).float().mean() for b in batches(2, first=90)]
    assert numbers["top1"] == pytest.approx(float(sum(right) / 2), abs=1e-6)
    # What a resumed run goes on with are the statistics of training.
    name = next(iter(batch_norms(model))) + ".running_mean"
    assert not torch.allclose(state["model"][name], weights[name])
