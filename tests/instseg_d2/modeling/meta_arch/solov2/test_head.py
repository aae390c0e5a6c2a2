import math

import pytest
import torch
from detectron2.layers import ShapeSpec

from instseg_d2.modeling.meta_arch.solov2.head import SOLOv2Head
from instseg_d2.modeling.meta_arch.solov2.mask_branch import SOLOv2MaskBranch


def shapes(*strides, channels=4):
    return [ShapeSpec(channels=channels, stride=stride) for stride in strides]


def head(**changes):
    settings = {"strides": (8, 8), "grid_numbers": (5, 3), "num_classes": 3, "conv_dims": [6], "kernel_channels": 7}
    return SOLOv2Head(**{"input_shape": shapes(4, 8), "norm": "", **settings, **changes})


def maps(*sizes, channels=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, *size, generator=generator) for size in sizes]


def test_outputs_have_the_size_of_the_grids_whatever_the_image():
    for sizes in (((16, 24), (8, 12)), ((8, 8), (4, 4))):
        categories, kernels = head()(maps(*sizes))
        assert [tuple(x.shape) for x in categories] == [(2, 3, 5, 5), (2, 3, 3, 3)]
        assert [tuple(x.shape) for x in kernels] == [(2, 7, 5, 5), (2, 7, 3, 3)]


def test_levels_come_to_their_stride_before_the_grid():
    features = [torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 2, 2)]
    features[0][:, :, ::2] = 1  # halving averages the rows
    features[2][:, :, 1] = 1
    module = head(input_shape=shapes(4, 8, 16), strides=(8, 8, 8), grid_numbers=(4, 4, 4))
    halved, same, enlarged = module.grids(features)
    assert torch.equal(halved[:, :4], torch.full((1, 4, 4, 4), 0.5))
    assert not same[:, :4].any()
    assert enlarged[0, 0, :, 0].tolist() == [0, 0.25, 0.75, 1]
    # Coordinates belong to the level at its stride: these grids have its size.
    assert same[0, 4, 0].tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert torch.equal(same[0, 4].T, same[0, 5])


def test_the_kernels_know_the_place_and_the_categories_do_not():
    module = head(grid_numbers=(4, 4), conv_dims=[6, 6])
    constant = [torch.ones(1, 4, 16, 16), torch.ones(1, 4, 8, 8)]
    torch.nn.init.normal_(module.kernel_pred.weight)
    torch.nn.init.normal_(module.kernel_tower[0].weight)
    categories, kernels = module(constant)
    # In the middle of a constant map, only coordinates make a difference. One cell of four, away from zero padding.
    module.category_pred.padding = module.kernel_pred.padding = (0, 0)
    center = head(grid_numbers=(12, 12), conv_dims=[6])
    torch.nn.init.normal_(center.kernel_tower[0].weight)
    torch.nn.init.normal_(center.kernel_pred.weight)
    categories, kernels = center(constant)
    inner = (slice(None), slice(None), slice(3, 9), slice(3, 9))
    assert categories[0][inner].flatten(2).std(dim=2).max() < 1e-6
    assert kernels[0][inner].flatten(2).std(dim=2).min() > 1e-3


def test_a_class_starts_at_its_prior_probability():
    categories, _ = head(prior_prob=0.02)([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)])
    assert torch.allclose(categories[0].sigmoid(), torch.tensor(0.02))


def test_norms_replace_biases():
    module = head(conv_dims=[64, 64], norm="GN")
    names = dict(module.named_parameters())
    assert "category_tower.1.norm.weight" in names
    assert "category_tower.1.bias" not in names
    assert "category_tower.0.bias" in dict(head().named_parameters())
    assert names["kernel_tower.0.weight"].shape[1] == names["category_tower.0.weight"].shape[1] + 2


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 levels in input_shape, 3 in strides and 2 in grid_numbers"):
        head(strides=(8, 8, 16))
    with pytest.raises(ValueError, match="same number of channels"):
        head(input_shape=[ShapeSpec(channels=4, stride=4), ShapeSpec(channels=8, stride=8)])
    with pytest.raises(ValueError, match=r"must double.*\[4, 16\]"):
        SOLOv2MaskBranch(input_shape=shapes(4, 16))


def test_mask_features_have_the_size_of_the_finest_level_and_gradients_reach_all():
    branch = SOLOv2MaskBranch(input_shape=shapes(4, 8, 16), conv_dim=6, out_channels=5, norm="")
    features = [x.requires_grad_() for x in maps((8, 12), (4, 6), (2, 3))]
    result = branch(features)
    assert result.shape == (2, 5, 8, 12)
    assert (result >= 0).all()
    result.sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in features)
    assert all(parameter.grad.abs().sum() > 0 for parameter in branch.parameters())


def test_mask_features_are_the_sum_of_the_levels():
    branch = SOLOv2MaskBranch(input_shape=shapes(4, 8), conv_dim=1, out_channels=1, norm="")
    for level, weight in zip(branch.levels, (1.0, 10.0), strict=True):
        torch.nn.init.zeros_(level[0].weight)
        level[0].weight.data[0, 0, 1, 1] = weight  # the first channel as it is
    torch.nn.init.constant_(branch.output.weight, 2.0)
    fine, coarse = torch.rand(1, 4, 4, 4), torch.rand(1, 4, 2, 2)
    upsampled = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    assert torch.allclose(branch([fine, coarse])[:, 0], 2 * (fine[:, 0] + 10 * upsampled[:, 0]), atol=1e-5)


def test_prior_of_the_bias():
    assert head().category_pred.bias[0].item() == pytest.approx(-math.log(99))
