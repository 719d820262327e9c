"""The contestants of `benchmarks model` are the same model, and what is counted of them is right."""

import pytest
import torch

from benchmarks.model import Entry, Options, compare, contest, largest, reference, verdict
from benchmarks.turns import Turns
from benchmarks.vits import MODELS, Shape
from vit.errors import UserError
from vit.model.config import Size
from vit.model.cost import flop_counter

SMALL = Shape(Size(48, 2, 3, 192), 8, 32, 10)


def parameters(library: str, shape: Shape) -> int:
    return sum(p.numel() for p in MODELS[library](shape).parameters())


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_same_size(library: str):
    assert parameters(library, SMALL) == parameters("ours", SMALL)


def test_vit_pytorch_differs_as_it_says():
    pytest.importorskip("vit_pytorch")
    width, depth, _, _ = SMALL.size
    patch = 3 * SMALL.patch**2
    norms, biases = 2 * patch + 2 * width, depth * 3 * width
    assert parameters("vit-pytorch", SMALL) == parameters("ours", SMALL) + norms - biases


@pytest.mark.parametrize("library", ["ours", "timm"])
def test_flops_are_those_torch_counts(library: str):
    model = MODELS[library](SMALL)
    with flop_counter() as counter:
        logits = model(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert counter.get_total_flops() == pytest.approx(2 * SMALL.flops(), rel=1e-6)


def test_one_comparison(capsys: pytest.CaptureFixture[str]):
    o = Options(batches=(2,), models=("ours", "timm"), amp=("fp32", "bf16"), rounds=2)
    results = contest({"small": SMALL}, o)
    said = capsys.readouterr().out
    assert [r["work"] for r in results] == ["forward", "training"]
    for result in results:
        names = {"ours", "timm", "ours, bf16", "timm, bf16"}
        assert set(result["ratios"]) == set(result["memory"]) == set(result["share"]) == names
        assert set(result["turns"]) == names | {"peak fp32", "peak bf16"}
        assert result["ratios"]["ours"]["median"] == 1 and all(0 < s < 1 for s in result["share"].values())
    assert results[1]["flops"] == 3 * results[0]["flops"]
    assert "### small, batch 2, training" in said and "times as fast" in said


def test_one_precision_alone(capsys: pytest.CaptureFixture[str]):
    contest(
        {"small": SMALL}, Options(batches=(1,), work=("forward",), models=("timm", "ours"), amp=("bf16",), rounds=1)
    )
    said = capsys.readouterr().out
    assert "| time / ours, bf16 |" in said and "times as fast" not in said
    with pytest.raises(UserError, match="--models needs ours"):
        Options(models=("timm",))


def test_training_trains():
    """A step changes every weight, and the loss falls over a few."""
    from benchmarks.model import batch_of, make, training

    model, batch = make(SMALL, Entry("ours", "eager", "fp32")), batch_of(SMALL, 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    losses = []
    for _ in range(3):
        losses.append(torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).item())
        training(model, *batch, "fp32")()
    assert losses[2] < losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_verdict_compares_our_best_with_the_peers_plain_best():
    entries = [Entry(library, mode, "fp32") for library in ("ours", "timm", "other") for mode in ("eager", "compiled")]
    seconds = {"ours": 3, "ours, compiled": 2, "timm": 2.5, "timm, compiled": 1, "other": 2.2, "other, compiled": 1}
    turns = Turns({k: [v] for k, v in seconds.items()})
    assert verdict(turns, entries) == ("ours, compiled", "other")
    assert reference(entries) == "ours" and reference(entries[1:]) == "ours, compiled"
    compiled = [e for e in entries if e.mode == "compiled"]
    assert verdict(turns, compiled) == ("ours, compiled", None)


def test_the_largest_batch_fits():
    budget = 40e6
    n = largest(SMALL, ("ours",), budget)
    assert n > 1
    assert largest(SMALL, ("ours",), 1.0) == 1


@pytest.mark.slow
def test_all_libraries_in_one_run():
    """In a process of its own, for transformers beside our `datasets`."""
    import subprocess
    import sys

    for package in ("transformers", "vit_pytorch"):
        pytest.importorskip(package)
    code = (
        "from benchmarks.model import Entry, compare\nfrom benchmarks.vits import MODELS, Shape\n"
        "from vit.model.config import Size\nshape = Shape(Size(48, 2, 3, 192), 8, 32, 10)\n"
        "entries = [Entry(library, 'eager', 'fp32') for library in MODELS]\n"
        "result = compare(shape, 2, 'training', entries, 1, 'cpu')\nassert set(result['memory']) == set(MODELS)\n"
        "count = lambda name: sum(p.numel() for p in MODELS[name](shape).parameters())\n"
        "assert count('transformers') == count('ours')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def test_compiled_and_eager_have_names_of_their_own():
    names = [Entry("ours", m, a).name for m in ("eager", "compiled") for a in ("fp32", "bf16")]
    assert names == ["ours", "ours, bf16", "ours, compiled", "ours, compiled, bf16"]
    assert compare.__doc__
