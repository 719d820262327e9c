"""Images packed into one sequence give what each gives alone."""

from dataclasses import replace

import pytest
import torch

from vit.errors import UserError
from vit.model.config import EncoderConfig
from vit.model.encoder import Encoder
from vit.model.packing import packed

PLAIN = EncoderConfig(32, 3, 4, 64, patch_size=8, image_size=(32, 32), prefix_positions=1, layer_scale=0.5)
CASES = {
    "plain": PLAIN,
    "rope": replace(PLAIN, positions="none", prefix_positions=0, rope=True, registers=2),
    "mixed rope": replace(PLAIN, positions="none", prefix_positions=0, rope=True, rope_mixed=True),
    "relative": replace(PLAIN, relative_positions=True),
    "no class token": replace(PLAIN, class_token=False, prefix_positions=0, stem="conv"),
}


@pytest.mark.parametrize("case", CASES)
def test_packed_is_one_by_one(case: str):
    torch.manual_seed(0)
    encoder = Encoder(CASES[case]).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    images = [torch.randn(3, *size) for size in ((32, 32), (8, 48), (64, 16), (32, 32))]
    with torch.no_grad():
        together = packed(encoder, images)
        for image, tokens in zip(images, together, strict=True):
            alone = encoder(image[None])
            assert tokens.grid == alone.grid
            torch.testing.assert_close(tokens.prefix, alone.prefix, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(tokens.patches, alone.patches, rtol=1e-4, atol=1e-5)


def test_gradients_of_a_pack_are_the_sum():
    torch.manual_seed(0)
    encoder = Encoder(PLAIN).double()
    images = [torch.randn(3, 16, 32, dtype=torch.float64), torch.randn(3, 8, 8, dtype=torch.float64)]

    def gradients(tokens: list) -> list[torch.Tensor]:
        loss = torch.stack([t.patches.sin().sum() + t.prefix.cos().sum() for t in tokens]).sum()
        return list(torch.autograd.grad(loss, list(encoder.parameters())))

    torch.testing.assert_close(gradients(packed(encoder, images)), gradients([encoder(x[None]) for x in images]))


def test_what_cannot_be_packed():
    with pytest.raises(UserError, match="no images"):
        packed(Encoder(PLAIN), [])
    with pytest.raises(UserError, match="drop_path"):
        packed(Encoder(replace(PLAIN, drop_path=0.1)), [torch.zeros(3, 8, 8)])
