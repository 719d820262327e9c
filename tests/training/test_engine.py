"""The loop: it learns, its options do what they say, and a resumed run is the uninterrupted one (rows 38 to 41, 43)."""

import io
import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from tests.small_data import AUGMENT
from vit.data import AUGMENTS, LabelReader, LoaderOptions, Mix, Pipeline, eval_loader, open_data, train_loader
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import create
from vit.model.depth import depth_of
from vit.optim.optimizers import Ema, make_optimizers
from vit.optim.schedule import Loop
from vit.runs.background import snapshot
from vit.runs.checkpoint import load_trainer, save_checkpoint
from vit.tasks.classification.loss import ClassificationLoss
from vit.tasks.classification.task import Classification
from vit.tasks.evaluation import evaluate
from vit.tasks.run import Parts
from vit.training.engine import fit, train_step
from vit.training.judge import _keeps
from vit.training.log import RunLog, read_rows, spike
from vit.training.safety import Safety


class Batch(NamedTuple):
    images: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor = torch.arange(24)


def bars(n, seed):
    """Three classes told apart by where a bright bar lies; noise everywhere. [n, 3, 8, 8], [n]"""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    images = torch.randn(n, 3, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, :, 3 * label : 3 * label + 2] += 2
    return Batch(images, labels)


def bar_batches(steps, size=24):
    return [bars(size, seed) for seed in range(steps)]


def toy(name="vit_nano4", **fields):
    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "mlp": 32, "depth": 2}
    model = create(name, num_classes=3, image_size=8, **sizes, **fields)
    return Classification(model, ["a", "b", "c"], ClassificationLoss(3))


def optimizers_of(task, name="adamw", lr=3e-3, head_first=False):
    return make_optimizers(task.model, name=name, lr=lr, muon_lr=0.02, weight_decay=0.05, head_first=head_first)


def quiet(folder, loop, start=0):
    return RunLog(folder, steps=loop.steps, start=start, console=Console(file=io.StringIO()))


def nothing(*_):
    pass


def judged(task, batches):
    return evaluate(task.model, lambda batch: task.predict(batch.images), batches, task.metrics())[0]


def test_learns_a_toy_problem(tmp_path):
    task, loop = toy(), Loop(steps=60, steps_per_epoch=20, warmup=5, clip=1.0, log_every=1)
    with quiet(tmp_path, loop) as log:
        at = fit(
            Parts(task, bar_batches(60), optimizers_of(task, lr=1e-2), loop, lambda: [bars(300, 1000)]), log, nothing
        )
    assert at.best > 0.95 and at.step == 60
    losses = [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl") if row["phase"] == "train"]
    assert losses[0] > 1.0 and losses[-1] < 0.3 * losses[0]
    assert float(judged(task, [bars(300, 1000)]).scalars()["top1"]) > 0.9


LOSSES = {
    "plain": {"label_smoothing": 0.1},
    "l1": {"l1": 1e-3},
    "class weights": {"class_weights": torch.tensor([0.1, 1.0, 5.0]), "label_smoothing": 0.1, "l1": 1e-3},
    "class weights, mixed": {"class_weights": torch.tensor([0.1, 1.0, 5.0]), "label_smoothing": 0.1},
    "several labels": {"class_weights": torch.tensor([0.1, 1.0, 5.0]), "multilabel": True},
}


@pytest.mark.parametrize("parts", [2, 3, 5, 100])
@pytest.mark.parametrize("loss", LOSSES)
def test_accumulation_is_the_whole_batch(parts, loss):
    whole, split = toy().model.double(), toy().model.double()
    batch = Batch(*bars(7, 0))._replace(images=bars(7, 0).images.double())
    if loss == "class weights, mixed":
        batch = batch._replace(targets=torch.rand(7, 3, generator=torch.Generator().manual_seed(0)).softmax(1))
    elif loss == "several labels":
        batch = batch._replace(targets=(torch.eye(3)[batch.targets] + torch.eye(3)[2]).clamp(max=1))
    losses = []
    for model, accumulate in ((whole, 1), (split, parts)):
        task = Classification(model, ["a", "b", "c"], ClassificationLoss(3, **LOSSES[loss]))
        rule = [torch.optim.SGD(model.parameters(), lr=1.0)]
        losses.append(train_step(task, batch, rule, Loop(1, 1, accumulate=accumulate)))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_clipping_bounds_the_norm_of_the_whole_gradient():
    steps = {}
    for clip in (None, 0.01):
        task = toy()
        before = nn.utils.parameters_to_vector(task.model.parameters()).detach().clone()
        train_step(task, bars(8, 0), [torch.optim.SGD(task.model.parameters(), lr=1.0)], Loop(1, 1, clip=clip))
        steps[clip] = nn.utils.parameters_to_vector(task.model.parameters()).detach() - before
    assert float(steps[None].norm()) > 0.1
    torch.testing.assert_close(steps[0.01], steps[None] * 0.01 / steps[None].norm(), rtol=1e-4, atol=1e-6)


def test_the_rate_follows_the_schedule(tmp_path):
    task, loop = toy(), Loop(steps=8, steps_per_epoch=8, warmup=4, final_lr=0.5, log_every=1)
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(8), optimizers_of(task, lr=1e-3), loop), log, nothing)
    rates = [row["lr"] for row in read_rows(tmp_path / "metrics.jsonl")]
    cosine = [0.5 + 0.25 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert rates == pytest.approx([1e-3 * f for f in [0.25, 0.5, 0.75, 1.0, *cosine]])


def test_the_average_of_the_weights_is_evaluated_and_kept(tmp_path):
    task, loop, kept = toy(), Loop(steps=20, steps_per_epoch=10, log_every=5), {}
    ema = Ema(task.model, 0.9)

    def save(name, weights, numbers, state):
        kept[name] = ({k: v.clone() for k, v in weights.items()}, numbers, state)

    validation = [bars(200, 1000)]
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(20), optimizers_of(task), loop, lambda: validation, ema=ema), log, save)
    weights, numbers, state = kept["last"]
    own = task.model.state_dict()
    assert all(torch.equal(weights[k], ema.state[k]) for k in own)
    assert not torch.equal(own["head.weight"], weights["head.weight"])
    assert all(torch.equal(state["model"][k], own[k]) for k in own)  # the model has its own weights back
    assert numbers["loss"] != judged(task, validation).scalars()["loss"]
    task.model.load_state_dict(weights)
    assert numbers["loss"] == judged(task, validation).scalars()["loss"]


def scripted(task, scores):
    """The task with validation scores from a list instead of from the model."""

    class Metrics:
        def update(self, *_):
            pass

        def scalars(self):
            return {"top1": scores.pop(0), "loss": None}

    task.metrics = Metrics
    return task


@pytest.mark.parametrize(
    ("scores", "stops", "best_step"),
    [
        ([0.5, 0.6, 0.6, 0.4, 0.9, 0.9], 8, 6),
        ([None, 0.2, 0.3, float("nan"), 0.1, 0.9], 10, 6),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 12, 12),
    ],
)
def test_early_stop(tmp_path, scores, stops, best_step):
    task, loop = scripted(toy(), scores), Loop(steps=12, steps_per_epoch=2, patience=2)
    saved, states = [], {}

    def save(name, weights, numbers, state):
        saved.append(name)
        states[name] = state

    with quiet(tmp_path, loop) as log:
        at = fit(Parts(task, bar_batches(12), optimizers_of(task), loop, list), log, save)
    assert (at.step, at.best_step) == (stops, best_step)
    assert saved.count("last") == stops // 2
    # A run that stopped early and is resumed has nothing left to do.
    with quiet(tmp_path, loop, start=stops) as log:
        again = fit(Parts(task, [], optimizers_of(task), loop, list), log, nothing, resume=states["last"])
    assert again == at


def test_a_head_that_stands_still_does_not_stop_what_comes_after(tmp_path):
    task = scripted(toy(), [0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    loop = Loop(steps=12, steps_per_epoch=2, head_steps=6, patience=2)
    with quiet(tmp_path, loop) as log:
        at = fit(Parts(task, bar_batches(12), optimizers_of(task, head_first=True), loop, list), log, nothing)
    assert at.step == 6 + 2 * 2


def test_the_latest_within_a_standard_error_is_kept():
    # 98.8 % of 500 has a standard error of .49 %.
    error = toy().uncertainty({"top1": 0.988, "n": 500})
    assert error == pytest.approx(math.sqrt(0.988 * 0.012 / 500))
    assert _keeps(0.984, 0.988, error) and not _keeps(0.98, 0.988, error)
    assert _keeps(0.1, None, 0.0) and not _keeps(None, None, 0.0) and not _keeps(float("nan"), 0.1, error)


def test_without_validation_the_last_weights_are_the_best(tmp_path):
    task, loop, saved = toy(), Loop(steps=4, steps_per_epoch=2, patience=1), []
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(4), optimizers_of(task), loop), log, lambda name, *_: saved.append(name))
    assert saved == ["best", "last"] * 2


class Poisoned(list):
    """Batches that can be had again from any step on."""

    start = 0

    def starting_at(self, step):
        other = Poisoned(self)
        other.start = step
        return other

    def __iter__(self):
        return iter(list.__getitem__(self, slice(self.start, None)))


def poisoned(steps, bad, value=float("nan")):
    batches = Poisoned(bar_batches(steps))
    for step in bad:
        batches[step].images[0, 0, 0, 0] = value
    return batches


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_row_44_a_step_that_is_not_finite_is_left_out(tmp_path, poison, clip):
    """Weights, running statistics and optimizers are those of a run without the step, and it is told of."""
    loop, states = Loop(steps=6, steps_per_epoch=6, log_every=3, clip=clip), []
    task = recorded(toy("vit_nano4_conv"), states)
    optimizers, ema = optimizers_of(task, "muon"), Ema(task.model, 0.9)
    safety = Safety(folder=tmp_path, command="vitral replay RUN")
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, poisoned(6, [3], poison), optimizers, loop, ema=ema), log, nothing, safety=safety)
        told = " ".join(log.console.file.getvalue().split())
    assert_bit_equal(states[3], states[4])
    assert not torch.equal(states[2]["head.weight"], states[3]["head.weight"])
    assert all(value.isfinite().all() for value in [*states[-1].values(), *ema.state.values()])
    assert ema.updates == 5
    moments = [state["step"] for state in optimizers[0].state.values()]
    assert {int(step) for step in moments} == {5}
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row.get("skipped") for row in rows] == [None, 1] and all(math.isfinite(row["loss"]) for row in rows)
    assert "Skipped step 3:" in told and "vitral replay RUN 3" in told
    record = json.loads((tmp_path / "nonfinite/step-3/batch.json").read_text())
    assert record["images"] == list(range(24)) and record["command"] == "vitral replay RUN 3"
    state = torch.load(tmp_path / "nonfinite/step-3/trainer.pt", weights_only=True)
    assert_bit_equal(state["model"], states[3])
    torch.manual_seed(loop.step_seed(3))
    assert torch.equal(state["rng"], torch.get_rng_state())


def test_a_gradient_that_is_not_finite_is_left_out_though_the_loss_is(tmp_path):
    states, loop = [], Loop(steps=3, steps_per_epoch=3)
    task = recorded(toy(), states)
    inner = task.losses

    def losses(images, targets):
        terms = inner(images, targets)
        if len(states) == 2:  # sqrt has no slope at 0
            terms["root"] = (task.model.head.bias[:1] * 0).sqrt().sum()
        return terms

    task.losses = losses
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(3), optimizers_of(task), loop), log, nothing)
    assert_bit_equal(states[1], states[2])
    assert all(value.isfinite().all() for value in task.model.state_dict().values())


def kept_states():
    """save, restore: the states of "last" in memory."""
    kept = []

    def save(name, weights, numbers, state):
        if name == "last":
            kept.append(snapshot(state))

    return kept, save, lambda: next((s for s in reversed(kept) if s["progress"]["bad"] == 0), None)


def test_row_45_the_run_goes_back_with_a_lower_rate_and_comes_through(tmp_path):
    """A rate at which the loss explodes: five steps in a row fail, and at a lower rate they do not."""
    task, loop = toy(), Loop(steps=20, steps_per_epoch=10, log_every=5, final_lr=1.0)
    _, save, restore = kept_states()
    rates = []

    def losses(images, targets, inner=task.losses):
        rates.append(optimizers[0].param_groups[0]["lr"] / optimizers[0].param_groups[0]["base_lr"])
        terms = inner(images, targets)
        far = len(rates) > 13 and rates[-1] > 0.3
        return {k: v * float("inf") if far else v for k, v in terms.items()}

    task.losses, optimizers = losses, optimizers_of(task)
    with quiet(tmp_path, loop) as log:
        at = fit(
            Parts(task, poisoned(20, []), optimizers, loop, lambda: [bars(9, 0)]),
            log,
            save,
            safety=Safety(restore=restore, due=lambda step: step % 4 == 0),
        )
        told = " ".join(log.console.file.getvalue().split())
    assert at.step == 20 and at.returns == 2 and at.rate == 0.25
    assert "Return 1: back to step 12, at 0.5 times the learning rate." in told
    steps = [row["step"] for row in read_rows(tmp_path / "metrics.jsonl") if row["phase"] == "train"]
    assert steps == [5, 10, 15, 20]  # what came after the checkpoint has not happened
    assert all(value.isfinite().all() for value in task.model.state_dict().values())


def test_row_45_after_three_returns_there_is_a_clear_end(tmp_path):
    task, loop = toy(), Loop(steps=20, steps_per_epoch=5)
    kept, save, restore = kept_states()
    batches = poisoned(20, range(7, 20))
    with (
        quiet(tmp_path, loop) as log,
        pytest.raises(UserError, match=r"not finite in 5 steps in a row, up to step 12, after 3 returns .*--lr"),
    ):
        fit(Parts(task, batches, optimizers_of(task), loop), log, save, safety=Safety(restore=restore))
    assert all(value.isfinite().all() for value in task.model.state_dict().values())
    assert [state["progress"]["step"] for state in kept] == [5]  # none while steps are left out
    with quiet(tmp_path, loop) as log, pytest.raises(UserError, match="before a good checkpoint was saved"):
        fit(Parts(toy(), poisoned(20, range(5)), optimizers_of(toy()), loop), log, nothing)


def test_a_loss_spike_is_told():
    steady = [1.0, 1.1, 0.9, 1.0, 1.05] * 3
    assert spike(steady, {"step": 200, "loss": 1.4}) is None
    assert spike(steady, {"step": 200, "loss": 4.0}) == "Loss spike: 4.000 up to step 200, 1.000 before."
    assert spike(steady[:5], {"step": 60, "loss": 4.0}) is None
    assert spike([*steady, None], {"step": 200, "loss": None}) is None


@pytest.mark.parametrize("most", [1, 5, 12])
def test_row_51_out_of_memory_halves_the_parts_and_keeps_the_step(tmp_path, most):
    """A device on which no more than `most` images fit: the run is the one that was told to take as many parts."""
    weights = {}
    for name in ("told", "found"):
        task, loop = toy(), Loop(steps=4, steps_per_epoch=2, accumulate=1)
        parts = next(n for n in (2, 4, 8, 16, 24) if math.ceil(24 / n) <= most)
        if name == "told":
            loop = replace(loop, accumulate=parts)

        def losses(images, targets, inner=task.losses, full=name == "found"):
            if full and len(images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return inner(images, targets)

        task.losses = losses
        kept, save, _ = kept_states()
        with quiet(tmp_path / name, loop) as log:
            at = fit(Parts(task, bar_batches(4), optimizers_of(task), loop), log, save)
            told = " ".join(log.console.file.getvalue().split())
        assert at.parts == parts == kept[-1]["progress"]["parts"]
        weights[name] = task.model.state_dict()
    assert f"Memory ran out at step 0: batches of 24 images now go in {parts} parts." in told
    assert_bit_equal(weights["told"], weights["found"])


def test_row_51_one_image_is_too_much(tmp_path):
    task, loop = toy(), Loop(steps=4, steps_per_epoch=2)

    def losses(images, targets):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    task.losses = losses
    with quiet(tmp_path, loop) as log, pytest.raises(UserError, match=r"Memory is too small for one image"):
        fit(Parts(task, bar_batches(4), optimizers_of(task), loop), log, nothing)


def test_evaluation_leaves_the_modes_of_all_parts_alone():
    task = toy()
    task.model.encoder.eval()
    modes = [module.training for module in task.model.modules()]
    judged(task, [bars(4, 0)])
    assert [module.training for module in task.model.modules()] == modes


def test_a_frozen_encoder_stays_as_it_is_with_its_running_statistics(tmp_path):
    task = toy("vit_nano4_conv", dropout=0.5)
    task.model.requires_grad_(False)
    task.model.head.requires_grad_(True)
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    loop = Loop(steps=4, steps_per_epoch=2)
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(4), optimizers_of(task), loop, lambda: [bars(9, 0)]), log, nothing)
    changed = {k for k, v in task.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"head.weight", "head.bias"}


def recorded(task, steps):
    """The task, and a list that its state before each step is added to."""
    inner = task.losses

    def losses(images, targets):
        steps.append({name: value.clone() for name, value in task.model.state_dict().items()})
        return inner(images, targets)

    task.losses = losses
    return task


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("amp", [None, torch.float16])
def test_the_head_learns_alone_at_first(tmp_path, name, amp):
    """Until the switch the rest is bit-identical, running statistics too; at the next step all of it moves."""
    states, loop = [], Loop(steps=8, steps_per_epoch=4, head_steps=4, amp=amp)
    task = recorded(toy("vit_nano4_conv", drop_path=0.5), states)
    if amp:  # gradients that a new scaler's factor does not make infinite, since such a step is left out
        task.losses = lambda images, targets, inner=task.losses: {
            k: v / 2**16 for k, v in inner(images, targets).items()
        }
    optimizers = optimizers_of(task, name, head_first=True)
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(8), optimizers, loop, lambda: [bars(9, 0)], ema=Ema(task.model, 0.9)), log, nothing)
    head = {"head.weight", "head.bias"}

    def moved(one, other):
        return {key for key in one if not torch.equal(one[key], other[key])}

    for before, after in pairwise(states[:5]):
        assert moved(before, after) == head
    trained = {key for key, _ in task.model.named_parameters()}
    last = moved(states[4], states[6])  # a dropped branch stands still for one step
    assert {key for key in last if key in trained} == trained
    assert any("running_mean" in key for key in last)
    # The optimizers know nothing of the first four steps but for the head.
    names = {id(p): key for key, p in task.model.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            if "step" in state:
                assert int(state["step"]) == (8 if names[id(parameter)] in head else 4)


def test_the_average_stays_with_the_weights_that_wait(tmp_path):
    task, loop = toy(), Loop(steps=4, steps_per_epoch=4, head_steps=3)
    first, ema, seen = {k: v.clone() for k, v in task.model.state_dict().items()}, Ema(task.model, 0.9), []
    update = ema.update
    ema.update = lambda model: (update(model), seen.append({k: v.clone() for k, v in ema.state.items()}))
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(4), optimizers_of(task, head_first=True), loop, ema=ema), log, nothing)
    for average in seen[:3]:
        assert {k for k in first if not torch.equal(first[k], average[k])} == {"head.weight", "head.bias"}
    assert not torch.equal(first["encoder.norm.weight"], seen[3]["encoder.norm.weight"])


def test_each_stage_has_a_warm_up_and_a_cosine(tmp_path):
    task, loop = toy(), Loop(steps=12, steps_per_epoch=4, head_steps=4, warmup=3, log_every=1)
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(12), optimizers_of(task, lr=1e-3, head_first=True), loop), log, nothing)
    rates = [row["lr"] for row in read_rows(tmp_path / "metrics.jsonl")]
    alone = [0.5, 1, 1, 0.5]  # half of the stage at most is warm-up
    both = [1 / 3, 2 / 3, 1, *(0.5 * (1 + math.cos(math.pi * i / 5)) for i in range(5))]
    assert rates == pytest.approx([1e-3 * f for f in [*alone, *both]])


def test_a_frozen_stem_keeps_its_running_statistics_while_later_blocks_learn(tmp_path):
    task = toy("vit_nano4_conv", dropout=0.5)
    for name, parameter in task.model.named_parameters():
        parameter.requires_grad_(depth_of(name, 2) > 1)
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    loop = Loop(steps=4, steps_per_epoch=2)
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(4), optimizers_of(task), loop, lambda: [bars(9, 0)]), log, nothing)
    assert any(k.endswith("running_var") for k in before)
    changed = {k for k, v in task.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if k.startswith(("encoder.blocks.1.", "encoder.norm.", "head."))}


class Stop(Exception):
    pass


class Run:
    """A run on 60 digits with everything that is random: dropout, drop path, augmentation, mixing, batch norm, EMA."""

    loop = Loop(steps=15, steps_per_epoch=5, warmup=3, clip=1.0, seed=3, log_every=3)

    def __init__(self, folder, workers=0, optimizer="muon", head_steps=0):
        self.folder, self.workers, self.optimizer = folder, workers, optimizer
        self.loop = replace(self.loop, head_steps=head_steps)
        data = open_data("digits", kind="labels")
        self.train, self.val = data.train.select(np.arange(0, 3500, 58)[:60]), data.val.select(np.arange(0, 500, 10))
        self.preprocess = Preprocess((28, 28), resize="squash", mean=(0.1,) * 3, std=(0.3,) * 3)

    def start(self, *, resume=False, stop_at=None):
        """Train; `stop_at` raises Stop in the middle of that step, as Ctrl-C would."""
        torch.manual_seed(3 if not resume else 99)  # a resumed run must not depend on what happened before
        sizes = {"width": 16, "heads": 2, "mlp": 32, "depth": 2}
        dropped = {"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.3}
        model = create("vit_nano4_conv", num_classes=10, image_size=28, **sizes, **dropped)
        task = Classification(model, [str(i) for i in range(10)], ClassificationLoss(10, label_smoothing=0.1))
        state = load_trainer(self.folder / "last") if resume else None
        start = state["progress"]["step"] if state else 0
        batches = train_loader(
            LabelReader(
                self.train,
                self.preprocess,
                Pipeline(AUGMENTS[AUGMENT], self.preprocess),
                seed=3,
                mix=Mix(10, mixup=0.8, cutmix=1.0),
            ),
            LoaderOptions(batch_size=12, epochs=3, start_step=start, workers=self.workers),
        )

        def until(step, inner=task.losses):
            calls = iter(range(start, 100))

            def losses(images, targets):
                if next(calls) == step:
                    raise Stop
                return inner(images, targets)

            return losses

        if stop_at is not None:
            task.losses = until(stop_at)
        ema = Ema(model, 0.9)

        def save(name, weights, numbers, state):
            save_checkpoint(self.folder / name, weights, {"model": {}, "metrics": numbers}, state)

        def validation():
            return eval_loader(LabelReader(self.val, self.preprocess), LoaderOptions(batch_size=32))

        optimizers = optimizers_of(task, self.optimizer, head_first=self.loop.head_steps > 0)
        with quiet(self.folder, self.loop, start) as log:
            at = fit(Parts(task, batches, optimizers, self.loop, validation, ema=ema), log, save, resume=state)
        return at, model.state_dict()

    def outcome(self):
        """Everything a run leaves behind, but for times."""
        rows = read_rows(self.folder / "metrics.jsonl")
        timeless = [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
        return timeless, load_trainer(self.folder / "last"), load_trainer(self.folder / "best")


def assert_bit_equal(one, other, path=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_bit_equal(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_bit_equal(a, b, f"{path}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("whole"))
    return run.start(), run.outcome()


@pytest.mark.parametrize(
    ("workers", "stops"),
    [((0, 0), [8]), ((0, 0), [5]), ((0, 0), [10, 10]), ((0, 0), [6, 14]), ((2, 0), [12]), ((0, 2), [7])],
    ids=["mid-epoch", "epoch's end", "twice in one place", "twice", "from 2 workers to 0", "from 0 workers to 2"],
)
def test_rows_38_to_43_a_resumed_run_is_the_uninterrupted_one(tmp_path, uninterrupted, workers, stops):
    (at, weights), (rows, last, best) = uninterrupted
    run = Run(tmp_path, workers[0])
    for i, stop in enumerate(stops):
        with pytest.raises(Stop):
            run.start(resume=i > 0, stop_at=stop)
    run.workers = workers[1]
    resumed_at, resumed_weights = run.start(resume=True)
    assert resumed_at == at
    assert_bit_equal(resumed_weights, weights)
    resumed_rows, resumed_last, resumed_best = run.outcome()
    assert resumed_rows == rows
    assert_bit_equal(resumed_last, last)
    assert_bit_equal(resumed_best, best)
    steps = [(row["phase"], row["step"]) for row in resumed_rows]
    assert len(set(steps)) == len(steps) == 5 + 2 + 3  # every third step, the ends of epochs, three evaluations


@pytest.fixture(scope="module")
def head_first(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("head first"), head_steps=10)
    return run.start(), run.outcome()


@pytest.mark.parametrize("stops", [[7], [10], [13], [6, 11]], ids=str)
def test_a_run_with_the_head_first_is_resumed_in_either_stage(tmp_path, head_first, stops):
    (at, weights), outcome = head_first
    run = Run(tmp_path, head_steps=10)
    for i, stop in enumerate(stops):
        with pytest.raises(Stop):
            run.start(resume=i > 0, stop_at=stop)
    resumed_at, resumed_weights = run.start(resume=True)
    assert resumed_at == at
    assert_bit_equal([resumed_weights, *run.outcome()], [weights, *outcome])


def test_another_seed_is_another_run(tmp_path, uninterrupted):
    run = Run(tmp_path)
    run.loop = replace(run.loop, seed=4)  # only dropout and drop path draw from it
    _, weights = run.start()
    assert not torch.equal(weights["head.weight"], uninterrupted[0][1]["head.weight"])


def test_metrics_csv_holds_the_same_rows(tmp_path):
    import csv

    task, loop = toy(), Loop(steps=4, steps_per_epoch=2)
    with quiet(tmp_path, loop) as log:
        fit(Parts(task, bar_batches(4), optimizers_of(task), loop, lambda: [bars(9, 0)]), log, nothing)
    rows = read_rows(tmp_path / "metrics.jsonl")
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(row["phase"], float(row["loss"])) for row in table] == [(row["phase"], row["loss"]) for row in rows]


def test_a_row_cut_short_by_a_crash_is_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(json.dumps({"step": 1, "phase": "train"}) + '\n{"step": 2, "pha')
    assert read_rows(file) == [{"step": 1, "phase": "train"}]
