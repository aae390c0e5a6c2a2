import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from instseg_d2.engine.fusion import fuse_for_inference
from instseg_d2.testing import fake_batch, tiny_mask_rcnn


def randomised(norm: nn.Module) -> nn.Module:
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        tensor.data.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, nn.BatchNorm2d])
def test_folded_convolution_equals_convolution_and_norm(norm, bias):
    torch.manual_seed(0)
    layer = Conv2d(3, 5, 3, padding=1, bias=bias, norm=randomised(norm(5)), activation=torch.relu).double().eval()
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    expected = layer(x)
    fused = fuse_for_inference(layer)
    assert fused.norm is None
    assert torch.allclose(fused(x), expected, atol=1e-12)
    assert expected.std() > 0.1


def test_group_norm_stays():
    layer = Conv2d(3, 4, 3, norm=nn.GroupNorm(2, 4))
    assert isinstance(fuse_for_inference(layer).norm, nn.GroupNorm)


def test_detector_finds_the_same():
    torch.manual_seed(0)
    model = tiny_mask_rcnn()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomised(module)
    model.eval()
    fused = fuse_for_inference(copy.deepcopy(model))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        expected, found = model(fake_batch(1))[0]["instances"], fused(fake_batch(1))[0]["instances"]
        features = fused.backbone(torch.randn(1, 3, 64, 96))
    assert all(feature.is_contiguous() for feature in features.values())
    assert len(expected) == len(found) > 10
    assert torch.allclose(expected.pred_boxes.tensor, found.pred_boxes.tensor, atol=1e-3)
    assert torch.allclose(expected.scores, found.scores, atol=1e-5)
    assert (expected.pred_masks != found.pred_masks).float().mean() < 1e-3
