"""Predicted 1x1 convolutions: parameter counts of the papers, layout of the vector, grouped convolution as oracle."""

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.layers.dynamic_conv import DynamicLayers, add_relative_coordinates, convolve_shared, further_layers


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"in_channels": 8}, 169),
        ({"in_channels": 16}, 233),
        ({"in_channels": 8, "relative_coordinates": False}, 153),
        ({"in_channels": 8, "num_layers": 1}, 11),
        ({"in_channels": 4, "channels": 3, "num_layers": 2}, 6 * 3 + 3 + 3 + 1),
    ],
)
def test_parameter_counts(settings, count):
    assert DynamicLayers(**settings).num_parameters == count


def test_weights_come_first_then_biases():
    layers = DynamicLayers(in_channels=1, channels=2, num_layers=2)
    assert layers.widths == (3, 2, 1)
    weights, biases = layers.split(torch.arange(22.0).reshape(2, 11))
    assert weights[0][0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert weights[1][0].tolist() == [[6, 7]]
    assert biases[0][0].tolist() == [8, 9]
    assert biases[1][1].tolist() == [21]


def reference(layers, features, parameters, images, locations, sizes, stride):
    """One grouped convolution a layer over inputs with coordinate channels, every instance with its own copy."""
    height, width = features.shape[2:]
    ys = stride // 2 + stride * torch.arange(height, dtype=features.dtype)
    xs = stride // 2 + stride * torch.arange(width, dtype=features.dtype)
    dx = ((locations[:, 0, None, None] - xs) / sizes[:, None, None]).expand(-1, height, width)
    dy = ((locations[:, 1, None, None] - ys[:, None]) / sizes[:, None, None]).expand(-1, height, width)
    x = torch.cat([dx[:, None], dy[:, None], features[images]], dim=1).reshape(1, -1, height, width)
    weights, biases = layers.split(parameters)
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x.relu() if number else x
        x = F.conv2d(x, weight.flatten(0, 1)[..., None, None], bias.flatten(), groups=len(parameters))
    return x[0]


def shared(layers, features, parameters, counts, locations, sizes, stride):
    weights, biases = layers.split(parameters)
    x = convolve_shared(features, weights[0][:, :, 2:], counts) + biases[0][:, :, None, None]
    x = add_relative_coordinates(x, weights[0][:, :, :2], locations, sizes, stride)
    return further_layers(x, weights[1:], biases[1:])[:, 0]


@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_grouped_convolutions(num_layers):
    rng = torch.Generator().manual_seed(0)
    layers = DynamicLayers(in_channels=4, channels=5, num_layers=num_layers)
    features = torch.randn(3, 4, 6, 7, generator=rng, dtype=torch.float64).requires_grad_()
    parameters = torch.randn(5, layers.num_parameters, generator=rng, dtype=torch.float64).requires_grad_()
    locations = 60 * torch.rand(5, 2, generator=rng, dtype=torch.float64)
    sizes = torch.tensor([64.0, 128, 64, 256, 64], dtype=torch.float64)
    upstream = torch.randn(5, 6, 7, generator=rng, dtype=torch.float64)
    results = []
    for outputs in (
        shared(layers, features, parameters, [2, 0, 3], locations, sizes, 8),
        reference(layers, features, parameters, [0, 0, 2, 2, 2], locations, sizes, 8),
    ):
        results.append([outputs, *torch.autograd.grad((outputs * upstream).sum(), [features, parameters])])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_coordinates_by_hand():
    """Instance at (12, 4), distance 8 counts as 1: x channel (12 - 4) / 8 and (12 - 12) / 8 in the two columns."""
    x = torch.zeros(1, 1, 1, 2)
    weights = torch.tensor([[[10.0, 1.0]]])
    result = add_relative_coordinates(x, weights, torch.tensor([[12.0, 20.0]]), torch.tensor([8.0]), stride=8)
    assert result.tolist() == [[[[10 + 2, 0 + 2]]]]


def test_no_instances_keep_the_graph():
    layers = DynamicLayers(in_channels=4)
    features = torch.randn(2, 4, 3, 5, requires_grad=True)
    parameters = torch.zeros(0, layers.num_parameters, requires_grad=True)
    outputs = shared(layers, features, parameters, [0, 0], torch.zeros(0, 2), torch.zeros(0), 8)
    assert outputs.shape == (0, 3, 5)
    outputs.sum().backward()
    assert features.grad.abs().sum() == 0
    assert parameters.grad.shape == parameters.shape
