"""BiFPN: nodes by hand, the order of their inputs, sizes that are odd, gradients."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone

from instseg_d2.model_zoo import get_config
from instseg_d2.modeling.backbones.bifpn import BiFPN, BiFPNLayer, Fusion


class Pooled(Backbone):
    """Stages of strides 8, 16 and 32, pooled from the image, with as many copies of it as they have channels."""

    _out_features = ("res3", "res4", "res5")
    _out_feature_channels = {"res3": 6, "res4": 9, "res5": 12}  # noqa: RUF012
    _out_feature_strides = {"res3": 8, "res4": 16, "res5": 32}  # noqa: RUF012

    def forward(self, x):
        return {
            name: torch.nn.functional.avg_pool2d(x, self._out_feature_strides[name], ceil_mode=True).repeat(
                1, self._out_feature_channels[name] // 3, 1, 1
            )
            for name in self._out_features
        }


def bifpn(**settings):
    torch.manual_seed(0)
    settings = {"out_channels": 8, "num_repeats": 2, "norm": "BN", **settings}
    return BiFPN(bottom_up=Pooled(), in_features=["res3", "res4", "res5"], **settings)


def passing(fusion):
    """Let the convolution of a node give back what it gets."""
    torch.nn.init.dirac_(fusion.conv.weight)
    torch.nn.init.zeros_(fusion.conv.bias)


def swish(x):
    return x * torch.tensor(float(x)).sigmoid().item()


def test_fusion_by_hand():
    """Weights 3, 1 and -5 are 3, 1 and 0 parts of four, and a ten-thousandth."""
    fusion = Fusion(num_inputs=3, channels=1, norm="")
    passing(fusion)
    fusion.weights.data = torch.tensor([3.0, 1.0, -5.0])
    result = fusion(*(torch.full((1, 1, 2, 2), value) for value in (2.0, 6.0, 100.0)))
    assert result.flatten().tolist() == pytest.approx([swish((3 * 2 + 6) / 4.0001)] * 4, rel=1e-6)
    result.sum().backward()
    assert fusion.weights.grad[2] == 0  # cut off
    assert (fusion.weights.grad[:2] != 0).all()


def test_layer_by_hand():
    """Three levels of one number each; every node takes its level first, then what came down, then what came up."""
    layer = BiFPNLayer(in_channels=[1, 1, 1], out_channels=1, norm="")
    weights = {"down.1": [1, 3], "down.0": [1, 1], "up.0": [1, 2, 5], "up.1": [4, 1]}
    for name, values in weights.items():
        node = layer.get_submodule(name)
        passing(node)
        node.weights.data = torch.tensor(values, dtype=torch.float32)
    fine, middle, coarse = 1.0, 2.0, -3.0

    def mean(name, *values):
        total = sum(weight * value for weight, value in zip(weights[name], values, strict=True))
        return swish(total / (sum(weights[name]) + 1e-4))

    down1 = mean("down.1", middle, coarse)
    down0 = mean("down.0", fine, down1)
    up0 = mean("up.0", middle, down1, down0)
    up1 = mean("up.1", coarse, up0)
    maps = [torch.full((1, 1, side, side), value) for side, value in ((4, fine), (2, middle), (1, coarse))]
    results = layer(maps)
    assert [tuple(x.shape[2:]) for x in results] == [(4, 4), (2, 2), (1, 1)]
    for found, wanted in zip(results, (down0, up0, up1), strict=True):
        assert found.flatten().tolist() == pytest.approx([wanted] * found.numel(), rel=1e-5)


def test_levels_of_the_pyramid():
    net = bifpn().eval()
    assert net.output_shape() == {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in range(3, 8)}
    assert net.size_divisibility == 32
    with torch.no_grad():
        found = {name: tuple(x.shape) for name, x in net(torch.randn(2, 3, 96, 160)).items()}
    # Sides of P5 to P7 are 3 x 5, 2 x 3, 1 x 2: rounded up.
    assert found == {f"p{i}": (2, 8, -(-96 // 2**i), -(-160 // 2**i)) for i in range(3, 8)}


@pytest.mark.parametrize("size", [(32, 128), (32, 32), (96, 32)])
def test_levels_of_one_pixel(size):
    found = bifpn().eval()(torch.randn(1, 3, *size))
    assert tuple(found["p7"].shape) == (1, 8, 1, 1)
    assert all(x.isfinite().all() for x in found.values())


def test_laterals_lie_where_channels_differ():
    net = bifpn(out_channels=9)
    first, second = net.layers
    assert [type(x).__name__ for x in first.laterals] == ["Conv2d", "Identity", "Conv2d", "Identity", "Identity"]
    assert all(isinstance(x, torch.nn.Identity) for x in second.laterals)
    assert isinstance(net.top_lateral, torch.nn.Conv2d)
    assert isinstance(bifpn(out_channels=12).top_lateral, torch.nn.Identity)


@pytest.mark.parametrize("norm", ["SyncBN", "naiveSyncBN", "GN", "", "BN"])
def test_every_parameter_learns_with_any_norm_in_one_process(norm):
    net = bifpn(norm=norm, out_channels=32).train()
    sum(x.square().mean() for x in net(torch.randn(2, 3, 64, 64)).values()).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_features": ["res3", "res5"]}, r"their strides are \[8, 32\], which must double"),
        ({"in_features": []}, "which must double"),
        ({"in_features": ["res5"], "num_top_levels": 0}, "at least two levels"),
        ({"in_features": ["res4", "res5"], "num_repeats": 0}, "one layer"),
    ],
)
def test_what_it_cannot_build_is_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        BiFPN(bottom_up=Pooled(), **settings)


def test_size_of_the_published_pyramid():
    """Six layers of eight nodes, three of the laterals, the top lateral: counted from the shapes."""
    with torch.device("meta"):
        net = instantiate(get_config("SIM/boxinst_r50_bifpn_coco_1x").model.detector.backbone)
    norm = 2 * 160
    nodes = 6 * (8 * (9 * 160 * 160 + norm) + 4 * 2 + 3 * 3 + 2)
    # Theirs have a bias beside the norm, but for that of the top.
    laterals = sum(channels * 160 + 160 + norm for channels in (512, 1024, 2048)) + 2048 * 160 + norm
    own = [p for name, p in net.named_parameters() if not name.startswith("bottom_up.")]
    assert sum(p.numel() for p in own) == nodes + laterals
