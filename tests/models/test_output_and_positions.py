"""The output of a backbone and that of each position, from one forward pass."""

from __future__ import annotations

import pytest
import torch

from ssltool.errors import SSLToolError, UsageError
from ssltool.models.backbones import build_backbone, check_positions, output_and_positions, patch_tokens


@pytest.mark.parametrize("arch", ["resnet18_w8", "wide_resnet16w1", "vit_w64_depth2_p8", "vit_w64_depth2_p8_r4"])
def test_the_output_and_the_positions_are_those_of_separate_forward_passes(arch):
    torch.manual_seed(0)
    backbone, dim = build_backbone(arch, image_size=32)
    backbone.eval()
    images = torch.randn(2, 3, 32, 32)
    check_positions(backbone, arch, "toy")
    out, positions = output_and_positions(backbone, images)
    assert out.shape == (2, dim)
    torch.testing.assert_close(out, backbone(images))
    assert torch.equal(positions, patch_tokens(backbone, images))


@pytest.mark.parametrize("network", [torch.nn.Linear(3, 4), torch.nn.Sequential()], ids=str)
def test_a_network_whose_pooling_is_not_known_is_refused(network):
    with pytest.raises(UsageError, match="toy compares the positions"):
        check_positions(network, "mine", "toy")
    with pytest.raises(SSLToolError, match="pools its last layer"):
        output_and_positions(network, torch.zeros(1, 3, 8, 8))
