"""Backbones that the configs build: deformable ResNets, and Swin Transformers under an FPN."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.backbone.resnet import BasicStem, DeformBottleneckBlock, ResNet

from instseg_d2.checkpoint import load_weights
from instseg_d2.model_zoo import get_config
from instseg_d2.modeling.backbones.resnet import resnet_dcn_stages


def deformable(stages):
    return [[isinstance(block, DeformBottleneckBlock) for block in stage] for stage in stages]


def test_deformable_blocks_lie_where_they_are_asked_for():
    with torch.device("meta"):
        stages = resnet_dcn_stages(50, deform_on_per_stage=[False, True, False, True])
    assert deformable(stages) == [[False] * 3, [True] * 4, [False] * 6, [True] * 3]


@pytest.mark.parametrize(("depth", "interval", "count"), [(101, 3, 11), (101, 1, 30), (50, 3, 5), (50, 9, 3)])
def test_deformable_blocks_at_intervals(depth, interval, count):
    """Of the 4, 23 and 3 blocks of a ResNet-101's res3 to res5 every third are 2, 8 and 1."""
    with torch.device("meta"):
        stages = resnet_dcn_stages(depth, deform_interval=interval)
    found = deformable(stages)
    assert found == [
        [stage > 0 and at % interval == 0 for at in range(len(blocks))] for stage, blocks in enumerate(found)
    ]
    assert sum(map(sum, found)) == count


def test_without_deformable_blocks_they_are_the_default_stages():
    with torch.device("meta"):
        ours = resnet_dcn_stages(101, deform_on_per_stage=[False] * 4)
        theirs = ResNet.make_default_stages(101, stride_in_1x1=True, norm="FrozenBN")
        ours, theirs = (ResNet(BasicStem(norm="FrozenBN"), stages) for stages in (ours, theirs))
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert str(ours) == str(theirs)


def test_offsets_alone_are_added_and_start_at_zero():
    with torch.device("meta"):
        ours = ResNet(BasicStem(norm="FrozenBN"), resnet_dcn_stages(50, deform_modulated=True))
        plain = ResNet(BasicStem(norm="FrozenBN"), ResNet.make_default_stages(50, norm="FrozenBN"))
    added = set(ours.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) <= set(ours.state_dict())
    assert len(added) == 2 * (4 + 6 + 3)
    assert all(".conv2_offset." in name for name in added)
    assert ours.res3[0].conv2_offset.out_channels == 27
    (block,) = ResNet.make_stage(
        DeformBottleneckBlock, 1, in_channels=4, out_channels=8, bottleneck_channels=4, norm="FrozenBN"
    )
    assert (block.conv2_offset.weight == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 18}, "the depth must be one of"),
        ({"depth": 50, "deform_on_per_stage": [True]}, "with four truth values"),
        ({"depth": 50, "deform_interval": 0}, "deform_interval=0: must be 1 or more"),
    ],
)
def test_what_it_cannot_build_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet_dcn_stages(**arguments)


def levels(name, size):
    torch.manual_seed(0)
    backbone = instantiate(get_config(name).model.backbone).eval()
    with torch.no_grad():
        return {key: tuple(value.shape) for key, value in backbone(torch.randn(1, 3, size, size)).items()}


def test_narrow_swin_pyramid():
    found = levels("Baselines/mask_rcnn_swin_narrow_fpn_occshapes_quick", 128)
    assert found == {f"p{level}": (1, 64, 128 >> level, 128 >> level) for level in range(2, 7)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["Baselines/mask_rcnn_r50_dcn_fpn_coco_1x", "Baselines/cascade_mask_rcnn_swin_b_fpn_coco_3x"]
)
def test_full_pyramids(name):
    found = levels(name, 64)
    assert found == {f"p{level}": (1, 256, 64 >> level, 64 >> level) for level in range(2, 7)}


@pytest.mark.slow
def test_dense_detectors_get_p3_to_p7():
    torch.manual_seed(0)
    backbone = instantiate(get_config("Baselines/fcos_mask_r50_fpn_coco_1x").model.detector.backbone).eval()
    with torch.no_grad():
        found = {name: tuple(value.shape) for name, value in backbone(torch.randn(1, 3, 128, 128)).items()}
    assert found == {f"p{level}": (1, 256, 128 >> level, 128 >> level) for level in range(3, 8)}
    # P6 comes from P5: 256 channels, not the 2048 of res5.
    assert backbone.top_block.p6.in_channels == 256


@pytest.mark.parametrize("name", ["fcos_mask_narrow_fpn", "mask_rcnn_swin_narrow_fpn"])
def test_weights_of_a_classifier_fill_the_backbone(name, tmp_path):
    # As published: names without the place that the backbone has in a detector, and a classifier that nothing wants.
    config = get_config(f"Baselines/{name}_occshapes_quick").model
    model, other = instantiate(config), instantiate(config)
    weights = {**other.backbone.bottom_up.state_dict(), "head.weight": torch.zeros(2, 3)}
    torch.save({"model": weights}, tmp_path / "classifier.pth")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_weights(model, f"{tmp_path}/classifier.pth?matching_heuristics=True", partial=True)
    for key, value in model.backbone.bottom_up.state_dict().items():
        assert torch.equal(value, weights[key]), key
    rest = [key for key in before if "bottom_up" not in key]
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in rest)
    assert len(rest) > 10
