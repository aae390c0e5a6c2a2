"""Anchors: hand-computed boxes, sharing of sizes among levels, and configs."""

import pytest
import torch
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator


def test_hand_computed_anchors():
    generator = DefaultAnchorGenerator(sizes=[[4, 8]], aspect_ratios=[[0.25, 1]], strides=[10], offset=0.5)
    (anchors,) = generator([torch.zeros(1, 7, 1, 2)])
    # Ratio 1/4: twice as wide and half as high; cells are centered at (5, 5) and (15, 5).
    cell = torch.tensor([[-4.0, -1, 4, 1], [-2, -2, 2, 2], [-8, -2, 8, 2], [-4, -4, 4, 4]])
    assert torch.equal(anchors.tensor[:4], cell + 5)
    assert torch.equal(anchors.tensor[4:], cell + torch.tensor([15.0, 5, 15, 5]))
    assert generator.num_anchors == generator.num_cell_anchors == [4]
    assert generator.box_dim == 4


def test_order_is_row_column_anchor():
    generator = DefaultAnchorGenerator(sizes=[2.0], aspect_ratios=[1.0], strides=[3], offset=0.0)
    (anchors,) = generator([torch.zeros(1, 1, 2, 3)])
    centres = anchors.get_centers().tolist()
    assert centres == [[0, 0], [3, 0], [6, 0], [0, 3], [3, 3], [6, 3]]


def test_lists_for_one_and_for_all_levels():
    shared = DefaultAnchorGenerator(sizes=[[16, 32]], aspect_ratios=[0.5, 1.0, 2.0], strides=[4, 8])
    assert shared.num_anchors == [6, 6]
    own = DefaultAnchorGenerator(sizes=[[16], [32, 48]], aspect_ratios=[[1.0], [1.0, 2.0]], strides=[4, 8])
    assert own.num_anchors == [1, 4]
    levels = own([torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 2, 2)])
    assert [len(level) for level in levels] == [9, 16]
    assert torch.allclose(levels[1].area(), torch.tensor([32.0, 32, 48, 48]).square().repeat(4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sizes": [[1], [2]], "strides": [4, 8, 16]},
        {"sizes": []},
        {"sizes": 32},
        {"offset": 1.0},
        {"offset": -0.1},
    ],
)
def test_refusals(wrong):
    with pytest.raises(AssertionError):
        DefaultAnchorGenerator(**{"sizes": [[32]], "aspect_ratios": [[1]], "strides": [4]} | wrong)


def test_stays_out_of_checkpoints_and_follows_the_module():
    generator = DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[[1]], strides=[4])
    assert generator.state_dict() == {}
    moved = generator.to("meta")
    assert moved([torch.zeros(1, 1, 2, 2, device="meta")])[0].device.type == "meta"


def test_yacs_and_lazy_config_agree():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64]], "MODEL.ANCHOR_GENERATOR.OFFSET", 0.5])
    from_yacs = build_anchor_generator(cfg, [ShapeSpec(stride=8), ShapeSpec(stride=16)])
    lazy = LazyCall(DefaultAnchorGenerator)(
        sizes=[[32], [64]], aspect_ratios=[0.5, 1.0, 2.0], strides=[8, 16], offset=0.5
    )
    features = [torch.zeros(1, 1, 4, 5), torch.zeros(1, 1, 2, 3)]
    for a, b in zip(from_yacs(features), instantiate(lazy)(features), strict=True):
        assert torch.equal(a.tensor, b.tensor)


@pytest.mark.bundled_only
def test_rotated_anchors_say_that_they_are_not_covered():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"])
    with pytest.raises(NotImplementedError, match="rotated boxes"):
        build_anchor_generator(cfg, [ShapeSpec(stride=8)])
