from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vit.detector.deformable import DeformableAttention, sample_by_grid, sample_by_index

GRIDS = [(6, 9), (3, 4)]


def problem(seed: int = 0) -> dict[str, torch.Tensor]:
    """B 2, Q 5, H 3, L 2, K 4, d 8; a third of the places lie outside of the maps."""
    g = torch.Generator().manual_seed(seed)
    cells = sum(h * w for h, w in GRIDS)
    return {
        "values": torch.randn(2, cells, 3, 8, generator=g),
        "places": torch.rand(2, 5, 3, 2, 4, 2, generator=g) * 1.6 - 0.3,
        "weights": torch.randn(2, 5, 3, 8, generator=g).softmax(-1).unflatten(-1, (2, 4)),
        "factor": torch.randn(2, 5, 24, generator=g),
    }


def answer(sample: Callable[..., torch.Tensor], p: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    inputs = {name: p[name].clone().requires_grad_() for name in ("values", "places", "weights")}
    out = sample(inputs["values"], GRIDS, inputs["places"], inputs["weights"])
    (out * p["factor"]).sum().backward()
    return {"answer": out.detach(), **{name: tensor.grad for name, tensor in inputs.items()}}


def test_both_forms_agree_with_gradients():
    by_grid, by_index = answer(sample_by_grid, problem()), answer(sample_by_index, problem())
    for name, tensor in by_grid.items():
        assert torch.allclose(tensor, by_index[name], atol=1e-5), name


@pytest.mark.slow
def test_forward_and_gradients_are_transformers(peer: Callable[..., None], tmp_path: Path):
    p = problem(1)
    save_file({**p, "grids": torch.tensor(GRIDS)}, tmp_path / "in.safetensors")
    peer("deformable_peer.py", tmp_path / "in.safetensors", tmp_path / "out.safetensors", needs="transformers")
    theirs = load_file(tmp_path / "out.safetensors")
    for sample in (sample_by_grid, sample_by_index):
        for name, tensor in answer(sample, p).items():
            assert torch.allclose(tensor, theirs[name], atol=1e-5), (sample.__name__, name)


def test_a_constant_map_is_read_as_it_is():
    """Wherever a head looks inside of the map it finds the same, and the weights add up to one."""
    p = problem()
    values = torch.ones_like(p["values"])
    places = p["places"].clamp(0.3, 0.7)
    for sample in (sample_by_grid, sample_by_index):
        out = sample(values, GRIDS, places, p["weights"])
        assert torch.allclose(out, torch.ones_like(out), atol=1e-5)


def test_module_looks_around_its_box():
    """A bright cell is seen by a box on it and not by one far away."""
    torch.manual_seed(0)
    attention = DeformableAttention(32, 4, points=2)
    cells = torch.zeros(1, 64, 32)
    cells[0, 8 * 2 + 2] = 5.0  # row 2, column 2 of 8 x 8
    boxes = torch.tensor([[[2.5 / 8, 2.5 / 8, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]]])
    out = attention(torch.zeros(1, 2, 32), boxes, cells, [(8, 8)])
    assert out[0, 0].abs().sum() > 0.1
    assert out[0, 1].abs().sum() < 1e-6


def test_gather_is_a_switch():
    torch.manual_seed(0)
    attention = DeformableAttention(32, 4, levels=2, points=3)
    torch.nn.init.normal_(attention.offsets.weight)
    torch.nn.init.normal_(attention.weights.weight)
    q, boxes = torch.randn(2, 5, 32), torch.rand(2, 5, 4)
    maps = torch.randn(2, sum(h * w for h, w in GRIDS), 32)
    by_grid = attention(q, boxes, maps, GRIDS)
    attention.gather = True
    assert torch.allclose(attention(q, boxes, maps, GRIDS), by_grid, atol=1e-5)
