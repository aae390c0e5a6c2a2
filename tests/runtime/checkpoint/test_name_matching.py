"""How the names of Caffe2 and bare backbones find their place in a model."""

import pytest
import torch
from detectron2.checkpoint.c2_model_loading import (
    align_and_update_state_dicts,
    convert_basic_c2_names,
    convert_c2_detectron_names,
)

BACKBONE = {
    "pred_w": "linear.weight",
    "conv1_b": "stem.conv1.bias",
    "conv1_bn_s": "stem.conv1.norm.weight",
    "res_conv1_bn_b": "stem.conv1.norm.bias",
    "res_conv1_bn_riv": "stem.conv1.norm.running_var",
    "res2_0_branch1_w": "res2.0.shortcut.weight",
    "res4_22_branch2a_bn_rm": "res4.22.conv1.norm.running_mean",
    "res3_1_branch2b_bn_beta": "res3.1.conv2.norm.bias",
    "res3_1_branch2b_bn_running_var": "res3.1.conv2.norm.running_var",
    "res5_2_branch2c_gn_s": "res5.2.conv3.norm.weight",
    "head_conv1_w": "head.conv1.weight",
    "AnnIndex_lowres_w": "ann_index_lowres.weight",
}

DETECTOR = {
    "conv_rpn_fpn2_w": "proposal_generator.rpn_head.conv.weight",
    "conv_rpn_b": "proposal_generator.rpn_head.conv.bias",
    "rpn_bbox_pred_fpn2_w": "proposal_generator.rpn_head.anchor_deltas.weight",
    "rpn_cls_logits_b": "proposal_generator.rpn_head.objectness_logits.bias",
    "fc6_w": "box_head.fc1.weight",
    "fc7_b": "box_head.fc2.bias",
    "head_conv2_gn_s": "box_head.conv2.norm.weight",
    "fpn_inner_res5_2_sum_w": "fpn_lateral5.weight",
    "fpn_inner_res2_2_sum_lateral_b": "fpn_lateral2.bias",
    "fpn_inner_res2_2_sum_lateral_gn_s": "fpn_lateral2.norm.weight",
    "fpn_res4_5_sum_w": "fpn_output4.weight",
    "fpn_res4_5_sum_gn_b": "fpn_output4.norm.bias",
    "_[mask]_fcn3_w": "mask_head.mask_fcn3.weight",
    "conv5_mask_w": "mask_head.deconv.weight",
}


def test_backbone_names():
    assert convert_basic_c2_names(list(BACKBONE)) == list(BACKBONE.values())


def test_detector_names():
    weights = {name: torch.full((1,), float(i)) for i, name in enumerate(DETECTOR)}
    converted, origin = convert_c2_detectron_names(weights)
    assert origin == {new: old for old, new in DETECTOR.items()}
    assert {new: value.item() for new, value in converted.items()} == {
        new: float(i) for i, new in enumerate(DETECTOR.values())
    }


def test_background_moves_from_first_to_last():
    rows = torch.arange(12.0)
    converted, _ = convert_c2_detectron_names(
        {"cls_score_b": rows[:3], "bbox_pred_b": rows, "mask_fcn_logits_b": rows[:3]}
    )
    assert converted["cls_score.bias"].tolist() == [1, 2, 0]
    assert converted["bbox_pred.bias"].tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert converted["mask_head.predictor.bias"].tolist() == [1, 2]


def tensors(**shapes):
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def test_longest_suffix_after_a_dot_wins():
    model = tensors(body__res2__conv1__weight=2, body__conv1__weight=2, body__myconv1__weight=2)
    checkpoint = tensors(conv1__weight=2, res2__conv1__weight=2)
    aligned = align_and_update_state_dicts(model, checkpoint, c2_conversion=False)
    assert aligned.keys() == {"body.res2.conv1.weight", "body.conv1.weight"}
    assert aligned["body.res2.conv1.weight"] is checkpoint["res2.conv1.weight"]
    assert aligned["body.conv1.weight"] is checkpoint["conv1.weight"]


def test_entries_without_a_match_keep_their_names():
    model = tensors(body__a=2, body__b=2)
    checkpoint = tensors(a=2, b=3, c=2)
    aligned = align_and_update_state_dicts(model, checkpoint, c2_conversion=False)
    assert list(aligned) == ["body.a", "b", "c"]
    assert aligned["b"] is checkpoint["b"]


def test_no_match_gives_the_checkpoint_back():
    checkpoint = tensors(x=2)
    assert align_and_update_state_dicts(tensors(a=2), checkpoint, c2_conversion=False) is checkpoint


def test_one_entry_for_two_parameters_is_an_error():
    with pytest.raises(ValueError, match="match"):
        align_and_update_state_dicts(tensors(x__a=2, y__a=2), tensors(a=2), c2_conversion=False)


def test_conversion_comes_before_matching():
    model = {"backbone.stem.conv1.weight": torch.zeros(3)}
    aligned = align_and_update_state_dicts(model, {"conv1_w": torch.ones(3)})
    assert aligned["backbone.stem.conv1.weight"].tolist() == [1, 1, 1]
