"""oneDNN's linear layer against torch's, on every CPU that has oneDNN, whatever it would take by itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vit.model.linear
from vit.model.classifier import create
from vit.model.cost import flop_counter
from vit.model.linear import Linear, linear, product

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
SHAPES = [((7, 40), 24), ((7, 24), 40), ((2, 3, 24), 24), ((2, 3, 5, 8), 16), ((8,), 4)]


def close(a: Tensor, b: Tensor, error: float = 1e-5) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=error * max(1.0, float(b.detach().abs().max())))


def operands(shape: tuple[int, ...], outputs: int, bias: bool = True) -> list[Tensor]:
    torch.manual_seed(0)
    rows = [torch.randn(shape), torch.randn(outputs, shape[-1])]
    return [t.requires_grad_() for t in (*rows, torch.randn(outputs))[: 3 if bias else 2]]


def gradients(of, given: list[Tensor], weight: Tensor) -> tuple[Tensor, ...]:
    bias = given[2] if len(given) == 3 else None
    return torch.autograd.grad((of(given[0], given[1], bias) * weight).sum(), [t for t in given if t.requires_grad])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "outputs"), SHAPES)
def test_values_and_gradients_are_torchs(shape, outputs, bias):
    given = operands(shape, outputs, bias)
    exact = [t.detach().double().requires_grad_() for t in given]
    weight = torch.randn(*shape[:-1], outputs)
    close(product(*given, *[None] * (3 - len(given))), F.linear(*exact))
    ours, theirs = gradients(product, given, weight), gradients(F.linear, exact, weight.double())
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)
        assert a.is_contiguous()
    with torch.no_grad():
        close(product(*given, *[None] * (3 - len(given))), F.linear(*exact))


@pytest.mark.parametrize("learns", range(3))
def test_what_is_frozen_gets_no_gradient(learns):
    given = operands((7, 40), 24)
    for i, t in enumerate(given):
        t.requires_grad_(i == learns)
    (ours,) = gradients(product, given, torch.ones(7, 24))
    (theirs,) = gradients(F.linear, given, torch.ones(7, 24))
    close(ours, theirs)


def test_gradients_of_gradients():
    given = operands((7, 40), 24)

    def penalty(of) -> tuple[Tensor, ...]:
        of_x, of_weight = torch.autograd.grad(of(*given).square().sum(), given[:2], create_graph=True)
        return torch.autograd.grad(of_x.square().sum() + of_weight.square().sum(), given)

    for a, b in zip(penalty(product), penalty(F.linear), strict=True):
        close(a, b)


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As on a CPU where MKL is slow, with layers of any size; counts what oneDNN got."""
    monkeypatch.setattr(vit.model.linear, "MKL_IS_SLOW", True)
    monkeypatch.setattr(vit.model.linear, "LEAST", 1)
    counted: list[int] = []

    def counting(*given: Tensor) -> Tensor:
        counted.append(1)
        return product(*given)

    monkeypatch.setattr(vit.model.linear, "product", counting)
    return counted


def test_who_gets_what(by_onednn, monkeypatch):
    layer, x = Linear(8, 4), torch.randn(3, 8)
    layer(x)
    assert len(by_onednn) == 1
    by_onednn.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.double()(x.double())
    layer.float().to("meta")(x.to("meta"))
    assert not by_onednn
    monkeypatch.setattr(vit.model.linear, "LEAST", 3 * 8 * 4)  # too few for one that learns
    layer = Linear(8, 4)
    layer(x)
    assert not by_onednn
    with torch.no_grad():
        layer(x)
    assert len(by_onednn) == 1


class Other(Tensor):
    pass


def test_other_kinds_of_tensors_have_their_own_products(by_onednn):
    layer, x = Linear(8, 4), torch.randn(3, 8)
    layer(x.as_subclass(Other))
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Other))
    layer(x)
    assert not by_onednn


def test_torch_func_gets_what_it_knows(by_onednn):
    x, weight, bias = (t.detach() for t in operands((3, 5, 8), 16))

    def each(of) -> Tensor:
        return torch.func.vmap(torch.func.grad(lambda w, x: of(x, w, bias).square().sum()), (None, 0))(weight, x)

    close(each(linear), each(F.linear))
    assert not by_onednn


def test_what_is_exported_consists_of_common_operators(by_onednn):
    layer, x = nn.Sequential(Linear(8, 4)).eval(), torch.randn(3, 8)
    graph = str(torch.export.export(layer, (x,)).graph)
    assert "mkldnn" not in graph and "vitral" not in graph
    assert not by_onednn


def test_a_model_gives_the_same_and_costs_the_same(by_onednn, monkeypatch):
    torch.manual_seed(0)
    model, x = create("vit_nano4", num_classes=10, image_size=32).eval(), torch.randn(2, 3, 32, 32)
    with flop_counter() as ours:
        answer = model(x)
    assert len(by_onednn) == 1 + 4 * 4 + 1  # patches, four in each block, the head
    monkeypatch.setattr(vit.model.linear, "MKL_IS_SLOW", False)
    with flop_counter() as theirs:
        close(answer, model(x))
    assert ours.get_total_flops() == theirs.get_total_flops()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # by torch 2.11 itself
def test_compiled(monkeypatch):
    monkeypatch.setattr(vit.model.linear, "MKL_IS_SLOW", True)
    monkeypatch.setattr(vit.model.linear, "LEAST", 1)
    x, weight, bias = operands((7, 40), 24)
    layer = Linear(40, 24)
    layer.load_state_dict({"weight": weight, "bias": bias})
    y = torch.compile(layer, fullgraph=True)(x)
    ours = torch.autograd.grad(y.square().sum(), (x, layer.weight, layer.bias))
    theirs = torch.autograd.grad(F.linear(x, weight, bias).square().sum(), (x, weight, bias))
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)
