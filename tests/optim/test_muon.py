"""Muon: torch's update, by a shorter way."""

import pytest
import torch
from torch import nn

from vit.optim.muon import Muon, orthogonalize

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan et al. 2024, as in torch.optim.Muon
SHAPES = [(48, 16), (64, 16), (16, 64), (16, 16), (20, 16), (1, 8)]


def as_defined(matrix, steps):
    """The iteration as the paper writes it, on the whole matrix, in float64."""
    a, b, c = COEFFICIENTS
    x = matrix.double() / matrix.double().norm()
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_iteration_is_the_papers(shape, steps):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = as_defined(matrix, steps)
    assert (orthogonalize(matrix, COEFFICIENTS, steps, 1e-7) - expected).abs().max() < 2e-5 * expected.abs().max()


def test_singular_values_of_very_different_size_keep_four_digits():
    """Forming the Gram matrix squares the condition number: float32 must still be far closer than bfloat16 is."""
    g = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(128, 128, generator=g))
    v, _ = torch.linalg.qr(torch.randn(512, 128, generator=g))
    matrix = (u * torch.logspace(0, -4, 128)) @ v.mT
    expected = as_defined(matrix, 5)
    error = (orthogonalize(matrix, COEFFICIENTS, 5, 1e-7) - expected).norm() / expected.norm()
    assert error < 1e-3
    theirs = torch.optim._muon._zeropower_via_newtonschulz(matrix, COEFFICIENTS, 5, 1e-7)
    assert error < (theirs - expected).norm() / expected.norm() / 10


def test_no_gradient_at_all_moves_nothing():
    assert not orthogonalize(torch.zeros(8, 32), COEFFICIENTS, 5, 1e-7).any()
    weight = nn.Parameter(torch.ones(4, 4))
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(weight, torch.ones(4, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_torchs_within_its_bfloat16(shape):
    g = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=g)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    pair = (
        Muon([ours], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1),
    )
    for _ in range(5):
        gradient = torch.randn(shape, generator=g)
        for weight, optimizer in zip((ours, theirs), pair, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    assert torch.equal(pair[0].state[ours]["momentum_buffer"], pair[1].state[theirs]["momentum_buffer"])


def test_state_goes_both_ways():
    weight = nn.Parameter(torch.randn(4, 8))
    weight.grad = torch.randn(4, 8)
    ours = Muon([weight], lr=0.02, weight_decay=0.1)
    ours.step()
    theirs = torch.optim.Muon([weight], lr=1.0)
    theirs.load_state_dict(ours.state_dict())
    again = Muon([weight], lr=1.0, weight_decay=0.0)
    again.load_state_dict(theirs.state_dict())
    assert again.param_groups[0]["lr"] == 0.02
    assert torch.equal(again.state[weight]["momentum_buffer"], ours.state[weight]["momentum_buffer"])


def test_a_kernel_moves_as_its_matrix_does():
    g = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(8, 3, 2, 2, generator=g), torch.randn(8, 3, 2, 2, generator=g)
    kernel, matrix = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    optimizer = Muon([kernel, matrix], lr=0.1, weight_decay=0.5)
    kernel.grad, matrix.grad = gradient, gradient.flatten(1)
    optimizer.step()
    assert torch.equal(kernel.flatten(1), matrix) and not torch.equal(kernel, start)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"got a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.ones(3))], lr=0.1, weight_decay=0.0)
