"""ResNet: against torchvision's, its stages, freezing, deformable blocks, and what a seed gives."""

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone, make_stage
from detectron2.modeling.backbone import ResNet, build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, DeformBottleneckBlock
from detectron2.modeling.proposal_generator import StandardRPNHead


def from_torchvision(reference):
    """Weights of a torchvision ResNet under detectron2's names."""
    renamed = {}
    for key, value in reference.state_dict().items():
        key = key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        for i in (1, 2, 3):
            key = key.replace(f"bn{i}", f"conv{i}.norm")
        stage, _, rest = key.partition(".")
        if stage.startswith("layer"):
            stage = f"res{int(stage[5:]) + 1}"
        elif stage != "fc":
            stage = f"stem.{stage}"
        renamed[f"{stage}.{rest}".replace("fc.", "linear.")] = value
    return renamed


@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_equal_torchvision(depth):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=7).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    names = ["res3", "res5", "linear"]
    ours = ResNet(BasicStem(), ResNet.make_default_stages(depth), num_classes=7, out_features=names).eval()
    missing = ours.load_state_dict(from_torchvision(reference), strict=False)
    assert not missing.unexpected_keys
    assert not missing.missing_keys

    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        outputs = ours(x)
        stem = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        res3 = reference.layer2(reference.layer1(stem))
        logits = reference(x)
    assert list(outputs) == names
    torch.testing.assert_close(outputs["res3"], res3, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs["linear"], logits, rtol=1e-4, atol=1e-3)


def test_default_outputs_and_dropped_stages():
    stages = ResNet.make_default_stages(18, norm="")
    assert ResNet(BasicStem(norm=""), stages)._out_features == ["res5"]
    cut = ResNet(BasicStem(norm=""), stages, out_features=["stem", "res3"])
    assert cut.stage_names == ("res2", "res3")
    assert {name: (s.channels, s.stride) for name, s in cut.output_shape().items()} == {
        "stem": (64, 4),
        "res3": (128, 8),
    }
    assert not any(key.startswith("res4") for key in cut.state_dict())
    assert cut.size_divisibility == 0
    with pytest.raises(AssertionError, match="Available children: stem, res2"):
        ResNet(BasicStem(norm=""), stages[:1], out_features=["res2", "res9"])
    with pytest.raises(AssertionError, match="ResNet"):
        cut(torch.zeros(3, 32, 32))


def test_make_stage_values_per_block():
    stage = make_stage(
        BottleneckBlock,
        3,
        in_channels=4,
        out_channels=8,
        bottleneck_channels=4,
        norm="",
        stride_per_block=[2, 1, 1],
        dilation_per_block=[1, 1, 2],
    )
    assert [b.stride for b in stage] == [2, 1, 1]
    assert [b.conv2.dilation for b in stage] == [(1, 1), (1, 1), (2, 2)]
    assert [(b.in_channels, b.out_channels) for b in stage] == [(4, 8), (8, 8), (8, 8)]
    assert stage[0].shortcut is not None
    assert stage[1].shortcut is None
    assert torch.nn.Sequential(*stage)(torch.zeros(1, 4, 10, 14)).shape == (1, 8, 5, 7)
    with pytest.raises(AssertionError, match="num_blocks=3"):
        make_stage(BasicBlock, 3, in_channels=4, out_channels=8, stride_per_block=[2, 1])
    with pytest.raises(AssertionError, match="both"):
        make_stage(BasicBlock, 1, in_channels=4, out_channels=8, stride_per_block=[2], stride=1)


@pytest.mark.parametrize(("in_1x1", "strides"), [(True, (2, 1)), (False, (1, 2))])
def test_where_a_bottleneck_has_its_stride(in_1x1, strides):
    block = BottleneckBlock(4, 8, bottleneck_channels=4, stride=2, stride_in_1x1=in_1x1, norm="")
    assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


def test_freeze_stops_gradients_and_batch_norms():
    model = ResNet(BasicStem(), ResNet.make_default_stages(18), freeze_at=2)
    frozen = {key.split(".")[0] for key, p in model.named_parameters() if not p.requires_grad}
    trained = {key.split(".")[0] for key, p in model.named_parameters() if p.requires_grad}
    assert frozen == {"stem", "res2"}
    assert trained == {"res3", "res4", "res5"}
    assert isinstance(model.res2[0].conv1.norm, FrozenBatchNorm2d)
    assert isinstance(model.stem.conv1.norm, FrozenBatchNorm2d)
    assert isinstance(model.res3[0].conv1.norm, torch.nn.BatchNorm2d)
    assert model.freeze(0) is model


@pytest.mark.parametrize("modulated", [False, pytest.param(True, marks=pytest.mark.bundled_only)])
def test_deformable_block_starts_as_a_plain_one(modulated):
    torch.manual_seed(0)
    kwargs = {"bottleneck_channels": 4, "stride": 2, "dilation": 2, "norm": "FrozenBN"}
    plain = BottleneckBlock(6, 8, **kwargs)
    deformable = DeformBottleneckBlock(6, 8, deform_modulated=modulated, **kwargs)
    deformable.load_state_dict(plain.state_dict(), strict=False)
    if modulated:
        # An untrained tap has the weight sigmoid(0).
        deformable.conv2.weight.data *= 2
    x = torch.randn(2, 6, 12, 10)
    torch.testing.assert_close(deformable(x), plain(x), rtol=1e-4, atol=1e-5)
    assert deformable.conv2_offset.out_channels == (27 if modulated else 18)


@pytest.mark.bundled_only
def test_deformable_block_trains_its_offsets():
    torch.manual_seed(0)
    block = DeformBottleneckBlock(4, 8, bottleneck_channels=4, norm="")
    block(torch.randn(1, 4, 9, 9)).square().sum().backward()
    assert block.conv2_offset.weight.grad.abs().sum() > 0
    assert block.conv2_offset.weight.abs().sum() == 0


def resnet_cfg(*overrides):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return cfg


def test_yacs_dilated_res5_keeps_the_resolution():
    cfg = resnet_cfg("MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"], "MODEL.RESNETS.RES5_DILATION", 2)
    model = build_backbone(cfg)
    assert {k: v.stride for k, v in model.output_shape().items()} == {"res4": 16, "res5": 16}
    assert model.res5[1].conv2.dilation == (2, 2)
    assert model.res4[0].conv1.stride == (2, 2)


def test_yacs_resnext_and_deformable_stage():
    cfg = resnet_cfg(
        *("MODEL.RESNETS.OUT_FEATURES", ["res3"], "MODEL.RESNETS.NUM_GROUPS", 4),
        *("MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
        *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, False, False], "MODEL.BACKBONE.FREEZE_AT", 0),
    )
    model = build_resnet_backbone(cfg, ShapeSpec(channels=5))
    assert model.stem.conv1.in_channels == 5
    assert (model.res2[0].conv2.in_channels, model.res2[0].conv2.groups) == (32, 4)
    assert isinstance(model.res2[0], BottleneckBlock)
    assert isinstance(model.res3[0], DeformBottleneckBlock)
    assert model.output_shape()["res3"].channels == 64
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", 256),
        ("MODEL.RESNETS.RES5_DILATION", 2),
        ("MODEL.RESNETS.NUM_GROUPS", 2),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True, False, False, False]),
    ],
)
def test_yacs_shallow_resnets_refuse_what_they_lack(wrong):
    cfg = resnet_cfg("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
    assert build_backbone(cfg).output_shape()["res4"].channels == 256
    cfg.merge_from_list(list(wrong))
    with pytest.raises(AssertionError, match=wrong[0]):
        build_backbone(cfg)


def test_a_seed_gives_the_weights_it_always_gave():
    """Sums of absolute weights, and the next random number, under seed 0: any other order of draws changes them."""
    torch.manual_seed(0)
    stages = [
        make_stage(BasicBlock, 1, in_channels=8, out_channels=8, norm=""),
        make_stage(
            BottleneckBlock,
            2,
            in_channels=8,
            out_channels=16,
            bottleneck_channels=4,
            stride_per_block=[2, 1],
            norm="",
        ),
        make_stage(DeformBottleneckBlock, 1, in_channels=16, out_channels=32, bottleneck_channels=8, stride=2, norm=""),
    ]
    stem_first = BasicStem(out_channels=8, norm="")
    names = ["res2", "res3", "res4"]
    top = LastLevelP6P7(32, 8, "res4")
    model = FPN(ResNet(stem_first, stages, out_features=names), names, 8, top_block=top)
    head = StandardRPNHead(in_channels=8, num_anchors=3)
    weights = {**model.state_dict(), **head.state_dict()}
    expected = {
        "bottom_up.stem.conv1.weight": 68.676,
        "bottom_up.res2.0.conv2.weight": 73.513,
        "bottom_up.res3.0.shortcut.weight": 35.823,
        "bottom_up.res3.1.conv3.weight": 15.861,
        "bottom_up.res4.0.conv1.weight": 49.158,
        "bottom_up.res4.0.conv2.weight": 78.110,
        "bottom_up.res4.0.conv2_offset.weight": 0.0,
        "fpn_lateral2.weight": 20.298,
        "fpn_output4.weight": 57.964,
        "top_block.p7.weight": 57.847,
        "conv.weight": 4.364,
        "objectness_logits.weight": 0.204,
        "anchor_deltas.weight": 0.789,
    }
    assert {key: weights[key].abs().sum().item() for key in expected} == pytest.approx(expected, abs=2e-3)
    assert torch.rand(1).item() == pytest.approx(0.33035022, abs=1e-6)
