"""The small transformer against torch's own layer, and as a backbone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.support.networks import Block, SmallTransformer, small_transformer
from export.training.networks.backbones import backbone, feature_shape
from transforms.core.errors import UsageError


def test_a_block_is_torchs_encoder_layer() -> None:
    torch.manual_seed(0)
    block = Block(24, heads=3)
    layer = nn.TransformerEncoderLayer(24, 3, 96, dropout=0, activation="gelu", batch_first=True, norm_first=True)
    pairs = {
        layer.self_attn.out_proj: block.out,
        layer.linear1: block.mlp[0],
        layer.linear2: block.mlp[2],
        layer.norm1: block.norm_attention,
        layer.norm2: block.norm_mlp,
    }
    for own, other in pairs.items():
        own.load_state_dict(other.state_dict())
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(block.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.qkv.bias)
        tokens = torch.randn(2, 7, 24)
        torch.testing.assert_close(block(tokens), layer(tokens), rtol=1e-5, atol=1e-5)


def test_tokens_lie_where_their_patches_are() -> None:
    """On a frame that is not square, what changes in one corner shows there before the blocks mix it."""
    torch.manual_seed(0)
    network = SmallTransformer((48, 64), dimension=16, heads=2, blocks=0).eval()
    image = torch.randn(1, 3, 48, 64)
    changed = image.clone()
    changed[:, :, :8, 56:] += 5
    with torch.no_grad():
        difference = (network.forward_features(changed) - network.forward_features(image)).abs().sum(1)[0]
    assert difference.shape == (3, 4)
    assert difference[0, 3] > 0
    assert difference[2].max() == difference[:, :3].max() == 0


def test_it_is_a_backbone_for_its_own_frame() -> None:
    trunk = backbone("benchmarks.support.networks:small_transformer", None)
    assert feature_shape(trunk, (112, 112)) == (128, 7, 7)
    with pytest.raises(UsageError, match="112 x 112 pixels, not 96 x 112"):
        feature_shape(trunk, (96, 112))
    assert sum(one.numel() for one in small_transformer().parameters()) == 1_040_672


@pytest.mark.parametrize("size", [(112, 100), (0, 16)])
def test_a_frame_of_parts_of_patches_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        SmallTransformer(size)
