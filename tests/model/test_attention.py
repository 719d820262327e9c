"""Attention in bfloat16 on a CPU against float64, and that torch's slow backward pass is not taken there."""

import pytest
import torch
import torch.nn.functional as F

from vit.model import attention as module
from vit.model.attention import attend, step_by_step

B, H, N, M, D = 2, 3, 17, 9, 32


def inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, H, N, D), (B, H, M, D), (B, H, M, D))
    return [torch.randn(*s, generator=generator).bfloat16().to(dtype).requires_grad_() for s in shapes]


def masks() -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    bias = torch.randn(1, H, N, M, generator=generator).bfloat16()
    kept = torch.rand(B, 1, N, M, generator=generator) < 0.7
    kept[..., 0] = True
    shut = kept.clone()
    shut[1, 0, 3] = False
    closed = torch.zeros(B, 1, N, M, dtype=torch.bfloat16).masked_fill(~shut, float("-inf"))
    return {
        "none": None,
        "bool": kept,
        "float": bias,
        "bool, one sees nothing": shut,
        "float, one sees nothing": closed,
    }


@pytest.mark.parametrize("mask", list(masks()))
def test_step_by_step_is_attention_in_float64(mask: str):
    given = masks()[mask]
    wanted = given.double() if given is not None and given.is_floating_point() else given
    mine, theirs = inputs(torch.float64), inputs(torch.float64)
    one, other = step_by_step(*mine, wanted), F.scaled_dot_product_attention(*theirs, attn_mask=wanted)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(
        torch.autograd.grad(one.sin().sum(), mine), torch.autograd.grad(other.sin().sum(), theirs)
    )


@pytest.mark.parametrize("mask", list(masks()))
def test_bfloat16_is_no_less_exact_than_torch(mask: str):
    """Errors against float64, relative to the largest value, of results and gradients."""
    given = masks()[mask]
    exact_mask = given.double() if given is not None and given.is_floating_point() else given
    exact, half, torchs = inputs(torch.float64), inputs(torch.bfloat16), inputs(torch.bfloat16)
    upstream = torch.randn(B, H, N, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    answers = []
    for function, given_mask, leaves in (
        (F.scaled_dot_product_attention, exact_mask, exact),
        (attend, given, half),
        (F.scaled_dot_product_attention, given, torchs),
    ):
        y = function(*leaves, given_mask)
        gradients = torch.autograd.grad(y, leaves, upstream.to(y.dtype))
        answers.append([y, *gradients])
    for wanted, ours, theirs in zip(*answers, strict=True):
        assert ours.dtype == torch.bfloat16
        scale = wanted.abs().max()
        error, least = (float(((x.double() - wanted).abs().max() / scale).detach()) for x in (ours, theirs))
        assert error < max(2 * least, 0.01)


@pytest.mark.parametrize("slow", [False, True])
def test_what_learns_in_bfloat16_goes_step_by_step(monkeypatch: pytest.MonkeyPatch, slow: bool):
    called = []
    monkeypatch.setattr(module, "SLOW_FORWARD", slow)
    monkeypatch.setattr(module, "step_by_step", lambda *given: called.append(given) or step_by_step(*given))
    attend(*inputs(torch.float32))
    with torch.no_grad():
        attend(*(x.detach() for x in inputs(torch.bfloat16)))
    assert len(called) == slow
    called.clear()
    attend(*inputs(torch.bfloat16))
    assert len(called) == 1
    q, k, v = inputs(torch.bfloat16)
    attend(q.detach(), k, v)  # of a frozen query
    assert len(called) == 2
    many = torch.zeros(1, 1, 1025, 4, dtype=torch.bfloat16, requires_grad=True)
    attend(many, many, many)  # whose scores would fill the memory
    assert len(called) == 2


def test_dropout_falls_on_the_shares():
    torch.manual_seed(0)
    v = torch.ones(1, 1, 8, 4)
    y = step_by_step(torch.zeros(1, 1, 200, 4), torch.zeros(1, 1, 8, 4), v, None, 0.5)
    torch.testing.assert_close(y * 4, (y * 4).round())  # so many of 8 survive, each 1 / (8 * (1 - .5))
    assert abs(float(y.mean()) - 1) < 0.1 and len(y.unique()) > 3
