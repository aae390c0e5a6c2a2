"""FPN: against torchvision's, its levels, and what it refuses."""

from collections import OrderedDict

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torchvision.ops import FeaturePyramidNetwork


class Features(Backbone):
    """Returns the features it was given."""

    def __init__(self, **channels_and_strides):
        super().__init__()
        self._out_features = list(channels_and_strides)
        self._out_feature_channels = {name: c for name, (c, _) in channels_and_strides.items()}
        self._out_feature_strides = {name: s for name, (_, s) in channels_and_strides.items()}

    def forward(self, x):
        return x


@pytest.fixture
def bottom_up():
    return Features(res2=(3, 4), res3=(5, 8), res4=(7, 16), res5=(9, 32))


@pytest.fixture
def features():
    torch.manual_seed(0)
    return {
        f"res{i}": torch.randn(2, c, 64 // 2**i * 4, 96 // 2**i * 4)
        for i, c in zip(range(2, 6), (3, 5, 7, 9), strict=True)
    }


def test_outputs_equal_torchvision(bottom_up, features):
    ours = FPN(bottom_up, list(features), 6)
    theirs = FeaturePyramidNetwork([3, 5, 7, 9], 6)
    for i in range(4):
        theirs.inner_blocks[i][0].load_state_dict(getattr(ours, f"fpn_lateral{i + 2}").state_dict())
        theirs.layer_blocks[i][0].load_state_dict(getattr(ours, f"fpn_output{i + 2}").state_dict())
    expected = theirs(OrderedDict(features))
    got = ours(features)
    assert list(got) == ["p2", "p3", "p4", "p5"]
    for level, reference in zip(got.values(), expected.values(), strict=True):
        torch.testing.assert_close(level, reference)


def test_shapes_names_and_divisibility(bottom_up, features):
    model = FPN(bottom_up, ["res3", "res4", "res5"], 6, top_block=LastLevelP6P7(9, 6))
    shapes = model.output_shape()
    assert {name: (s.channels, s.stride) for name, s in shapes.items()} == {f"p{i}": (6, 2**i) for i in range(3, 8)}
    assert model.size_divisibility == 32
    assert model.padding_constraints == {"square_size": 0}
    assert FPN(bottom_up, ["res5"], 6, square_pad=640).padding_constraints == {"square_size": 640}
    got = model(features)
    assert {name: tuple(f.shape[2:]) for name, f in got.items()} == {
        "p3": (32, 48),
        "p4": (16, 24),
        "p5": (8, 12),
        "p6": (4, 6),
        "p7": (2, 3),
    }


def test_top_blocks(bottom_up, features):
    pooled = FPN(bottom_up, list(features), 6, top_block=LastLevelMaxPool())(features)
    assert torch.equal(pooled["p6"], pooled["p5"][:, :, ::2, ::2])
    from_p5 = FPN(bottom_up, ["res4", "res5"], 6, top_block=LastLevelP6P7(6, 6, in_feature="p5"))
    got = from_p5(features)
    torch.testing.assert_close(got["p6"], from_p5.top_block.p6(got["p5"]))
    torch.testing.assert_close(got["p7"], from_p5.top_block.p7(got["p6"].relu()))


def test_average_of_lateral_and_top_down(bottom_up, features):
    summed = FPN(bottom_up, ["res4", "res5"], 6)
    averaged = FPN(bottom_up, ["res4", "res5"], 6, fuse_type="avg")
    averaged.load_state_dict(summed.state_dict())
    # Without biases of the output the finer level is exactly halved.
    for model in (summed, averaged):
        torch.nn.init.zeros_(model.fpn_output4.bias)
    torch.testing.assert_close(averaged(features)["p4"] * 2, summed(features)["p4"])
    torch.testing.assert_close(averaged(features)["p5"], summed(features)["p5"])


def test_keys_with_and_without_norm(bottom_up):
    assert set(FPN(bottom_up, ["res5"], 32).state_dict()) == {
        f"fpn_{part}5.{kind}" for part in ("lateral", "output") for kind in ("weight", "bias")
    }
    assert set(FPN(bottom_up, ["res5"], 32, norm="GN").state_dict()) == {
        f"fpn_{part}5.{kind}" for part in ("lateral", "output") for kind in ("weight", "norm.weight", "norm.bias")
    }


def test_refusals(bottom_up):
    with pytest.raises(AssertionError):
        FPN(bottom_up, ["res3", "res5"], 6)
    with pytest.raises(AssertionError):
        FPN(bottom_up, ["res5"], 6, fuse_type="max")
    with pytest.raises(AssertionError):
        FPN(torch.nn.Identity(), ["res5"], 6)


@pytest.mark.parametrize(
    ("name", "levels"), [("build_resnet_fpn_backbone", "23456"), ("build_retinanet_resnet_fpn_backbone", "34567")]
)
def test_yacs(name, levels):
    cfg = get_cfg()
    inputs = ["res2", "res3", "res4", "res5"][-(7 - int(levels[-1])) - 3 :]
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", name, "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
            *("MODEL.RESNETS.OUT_FEATURES", inputs, "MODEL.FPN.IN_FEATURES", inputs, "MODEL.FPN.OUT_CHANNELS", 8),
        ]
    )
    model = build_backbone(cfg, ShapeSpec(channels=3))
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 64, 128))
    assert [f"p{i}" for i in levels] == list(outputs)
    for name, feature in outputs.items():
        assert feature.shape == (
            1,
            8,
            64 // model.output_shape()[name].stride or 1,
            128 // model.output_shape()[name].stride,
        )
