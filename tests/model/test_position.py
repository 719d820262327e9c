"""Positions against their formulas, timm's, and what each is for."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed

from vit.model.config import EncoderConfig
from vit.model.encoder import Encoder
from vit.model.position import axial_rope, patch_coordinates, resize_grid, rotate, sincos_grid

CPU = torch.device("cpu")


def test_sincos_is_the_formula():
    h, w, width, base = 2, 3, 8, 10_000.0
    table = sincos_grid((h, w), width)
    assert table.shape == (1, h * w, width) and table.dtype == torch.float32
    for row in range(h):
        for column in range(w):
            expected = []
            for coordinate in (column, row):
                angles = [coordinate / base ** (i / (width // 4)) for i in range(width // 4)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(table[0, row * w + column], torch.tensor(expected))


def test_a_grid_of_the_same_size_is_left_alone():
    positions = torch.randn(1, 12, 6)
    assert resize_grid(positions, (3, 4), (3, 4)) is positions


@pytest.mark.parametrize("new", [(3, 4), (7, 5), (2, 2), (5, 4)])
def test_a_grid_is_resized_as_timm_does(new):
    old, width, prefix = (3, 5), 6, 1
    positions = torch.randn(1, prefix + 15, width)
    theirs = resample_abs_pos_embed(positions, new_size=list(new), old_size=list(old), num_prefix_tokens=prefix)
    torch.testing.assert_close(resize_grid(positions[:, prefix:], old, new), theirs[:, prefix:])


def test_resizing_is_interpolation_in_fp32():
    positions = torch.randn(1, 12, 6)
    plain = F.interpolate(positions.view(1, 3, 4, 6).permute(0, 3, 1, 2), size=(2, 2), mode="bicubic")
    torch.testing.assert_close(resize_grid(positions, (3, 4), (2, 2), rule="plain"), plain.flatten(2).mT)
    half = resize_grid(positions.bfloat16(), (3, 4), (6, 8))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, resize_grid(positions.bfloat16().float(), (3, 4), (6, 8)).bfloat16())


def test_rope_is_the_formula():
    grid, width, base = (2, 3), 8, 100.0
    cos, sin = axial_rope(patch_coordinates(grid, CPU), width, 0, base)
    for row in range(2):
        for column in range(3):
            y, x = (row + 0.5) / 2 * 2 - 1, (column + 0.5) / 3 * 2 - 1
            angles = [2 * math.pi * place / base ** (4 * i / width) for place in (y, x) for i in range(2)] * 2
            place = row * 3 + column
            torch.testing.assert_close(cos[place], torch.tensor(angles).cos(), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(sin[place], torch.tensor(angles).sin(), rtol=1e-5, atol=1e-5)


def test_rope_leaves_the_prefix_and_every_norm_alone():
    x = torch.randn(2, 3, 4 + 6, 8)
    y = rotate(x, axial_rope(patch_coordinates((2, 3), CPU), 8, 4, 100.0))
    torch.testing.assert_close(y[:, :, :4], x[:, :, :4], rtol=0, atol=0)
    assert not torch.isclose(y[:, :, 4:], x[:, :, 4:]).all()
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))


def test_rope_scores_depend_on_the_difference_of_positions_only():
    h, w, width = 4, 6, 16
    rope = axial_rope(patch_coordinates((h, w), CPU), width, 0, 100.0)
    q, k = torch.randn(2, width).double()
    turned_q = rotate(q.expand(1, 1, h * w, -1), rope).view(h, w, width)
    turned_k = rotate(k.expand(1, 1, h * w, -1), rope).view(h, w, width)
    scores = torch.einsum("abd,ced->abce", turned_q, turned_k)  # of the query at (a, b) and the key at (c, e)
    by_difference: dict[tuple[int, int], list[float]] = {}
    for a, b, c, e in torch.cartesian_prod(*map(torch.arange, (h, w, h, w))).tolist():
        by_difference.setdefault((a - c, b - e), []).append(float(scores[a, b, c, e]))
    spreads = [max(same) - min(same) for same in by_difference.values()]
    firsts = [same[0] for same in by_difference.values()]
    assert max(spreads) < 1e-4 < 0.1 < max(firsts) - min(firsts)


def test_rope_coordinates_are_normalised():
    """Twice the resolution: the average of a patch's four quarters lies where the patch lay."""
    coarse = axial_rope(patch_coordinates((2, 2), CPU), 8, 0, 100.0)
    odd = axial_rope(
        patch_coordinates((6, 6), CPU), 8, 0, 100.0
    )  # a grid of 6 has a patch in the middle of each of the 2x2
    middle = torch.tensor([1 * 6 + 1, 1 * 6 + 4, 4 * 6 + 1, 4 * 6 + 4])
    for ours, theirs in zip(coarse, odd, strict=True):
        torch.testing.assert_close(ours, theirs[middle], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [{"positions": "sincos"}, {"positions": "none", "rope": True}])
def test_tables_made_while_evaluating_serve_training_too(fields):
    encoder = Encoder(EncoderConfig(width=8, depth=1, heads=1, mlp=8, patch_size=2, image_size=(4, 4), **fields))
    images = torch.randn(1, 3, 4, 6)
    with torch.inference_mode():
        encoder(images)
    encoder(images).patches.sum().backward()
