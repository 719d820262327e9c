"""Token merging: what is alike is merged, nothing is lost in sums, and merging nothing changes nothing."""

from dataclasses import replace

import pytest
import torch

from vit.errors import UserError
from vit.model.classifier import Classifier, create
from vit.model.config import preset
from vit.model.merging import Merging, matching, merged_block, merging


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_most_alike_are_merged():
    """Eight patches of four kinds, two of each, one in each set: the four pairs are the four merges."""
    kinds = torch.eye(4).repeat_interleave(2, dim=0)[None]  # [1, 8, 4]
    values = torch.arange(8.0).view(1, 8, 1)
    merge = matching(kinds, 4, prefix=0)
    assert merge is not None
    assert merge(values).flatten().tolist() == [1, 5, 9, 13]


def test_prefix_tokens_stay_and_sums_are_kept():
    keys, values = torch.randn(3, 2 + 13, 5), torch.randn(3, 2 + 13, 7)
    merge = matching(keys, 4, prefix=2)
    assert merge is not None
    merged = merge(values)
    assert merged.shape == (3, 2 + 13 - 4, 7)
    torch.testing.assert_close(merged[:, :2], values[:, :2], rtol=0, atol=0)
    torch.testing.assert_close(merged.sum(1), values.sum(1))


def test_no_more_than_half_is_merged_and_one_patch_never():
    merge = matching(torch.randn(1, 7, 3), 100, prefix=0)
    assert merge is not None and merge(torch.ones(1, 7, 1)).shape[1] == 4
    assert matching(torch.randn(1, 2, 3), 5, prefix=1) is None


def test_a_merge_of_equal_tokens_is_exact():
    """Tokens that are equal in pairs, and have no position, can be merged without a trace: proportional attention
    counts each as often as it is there."""
    block = create("vit_nano16", image_size=32).encoder.blocks[0].eval().double()
    pairs = torch.randn(2, 3, 128, dtype=torch.float64).repeat_interleave(2, dim=1)
    x = torch.cat([torch.randn(2, 1, 128, dtype=torch.float64), pairs], dim=1)  # one prefix token, six patches
    merged, size = merged_block(block, x, torch.ones_like(x[:, :, :1]), 3, prefix=1)  # pyright: ignore
    assert size[:, :, 0].tolist() == [[1, 2, 2, 2]] * 2
    again, _ = merged_block(block, merged, size, 0, prefix=1)  # pyright: ignore
    with torch.no_grad():
        whole = block(block(x))
    torch.testing.assert_close(again[:, :1], whole[:, :1])
    torch.testing.assert_close(again[:, 1:], whole[:, 1::2])


@pytest.mark.parametrize("name", ["vit_nano8", "vit_nano8_mean"])
def test_a_model_merges_in_evaluation_only(name: str):
    model = create(name, num_classes=5, image_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    plain = model(images)
    assert merging(model, 9) is model and isinstance(model.encoder.merging, Merging)
    tokens = model.forward_features(images)
    assert tokens.patches.shape[1] == 64 - 4 * 9
    assert not torch.equal(model(images), plain)
    model.train()
    assert model.forward_features(images).patches.shape[1] == 64
    torch.testing.assert_close(merging(model.eval(), 0)(images), plain, rtol=0, atol=0)


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(UserError, match="rotary"):
        merging(create("vit_nano16_rope"), 4)
    with pytest.raises(UserError, match="0 or more"):
        merging(create("vit_nano16"), -1)
    config = preset("vit_nano16")
    with pytest.raises(UserError, match="pool=attention"):
        merging(Classifier(replace(config, pool="attention")), 4)
