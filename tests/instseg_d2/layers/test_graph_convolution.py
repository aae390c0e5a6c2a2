"""The graph convolution against its formula, written out."""

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.layers.graph_convolution import GraphConvolution

SETTINGS = [
    {"transforms": 4, "norm": "BN", "activation": False, "scale": True},
    {"transforms": 3, "norm": "LN", "activation": True, "scale": False},
]


def written_out(layer, x, scale):
    regions = []
    for region in x:
        nodes = region.flatten(1).T  # (pixels, C)
        theta, phi, value = (nodes @ part.weight[:, :, 0, 0].T for part in (layer.query, layer.key, layer.value))
        affinity = torch.softmax(theta @ phi.T * scale, dim=1)
        assert torch.allclose(affinity.sum(1), torch.ones(len(nodes), dtype=x.dtype))
        regions.append((affinity @ value).T.reshape(region.shape))
    return torch.stack(regions)


@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_the_formula(settings):
    torch.manual_seed(0)
    layer = GraphConvolution(6, **settings).double()
    x = torch.randn(3, 6, 4, 5, dtype=torch.double)
    mixed = written_out(layer, x, 6**-0.5 if settings["scale"] else 1.0)
    if settings["norm"] == "BN":
        mixed = torch.einsum("oc,rchw->rohw", layer.output.weight[:, :, 0, 0], mixed)
        expected = x + F.batch_norm(mixed, None, None, training=True, eps=1e-4)
    else:
        mean, variance = mixed.mean(1, keepdim=True), mixed.var(1, unbiased=False, keepdim=True)
        expected = x + ((mixed - mean) / (variance + 1e-6).sqrt()).relu()
    assert torch.allclose(layer(x), expected, atol=1e-8)


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradients(settings):
    torch.manual_seed(0)
    layer = GraphConvolution(4, **settings).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x, atol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS)
def test_no_region_keeps_the_parameters_in_the_graph(settings):
    layer = GraphConvolution(4, **settings)
    result = layer(torch.zeros(0, 4, 3, 3))
    assert result.shape == (0, 4, 3, 3)
    result.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in layer.parameters())
    assert all(torch.isfinite(value).all() for value in layer.state_dict().values())


def test_parameters_of_the_release():
    assert sum(parameter.numel() for parameter in GraphConvolution(256).parameters()) == 4 * 65_536 + 512


@pytest.mark.parametrize("wrong", [{"transforms": 2}, {"norm": "GN"}])
def test_unknown_settings(wrong):
    with pytest.raises(ValueError, match="must be"):
        GraphConvolution(4, **wrong)
