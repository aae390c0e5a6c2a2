"""What of a base stage is left out before its weights are taught other categories."""

import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.checkpoint import CheckpointMismatchError
from instseg_d2.checkpoint.base_stage import drop_class_layers
from instseg_d2.model_zoo import get_config

BOX_PREDICTOR = "roi_heads.box_predictor"


def of(*layers):
    return {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("cpmask_fcos_narrow_fpn_occshapes_base_quick", of("detector.head.cls_score")),
        (
            "mask_rcnn_r50_fpn_coco_base",
            of(f"{BOX_PREDICTOR}.cls_score", f"{BOX_PREDICTOR}.bbox_pred", "roi_heads.mask_head.predictor"),
        ),
        # Class-agnostic masks.
        ("mask_rcnn_r50_fpn_coco_voc_1x", of(f"{BOX_PREDICTOR}.cls_score", f"{BOX_PREDICTOR}.bbox_pred")),
        # Class-agnostic masks and boxes.
        (
            "cpmask_cascade_narrow_fpn_occshapes_quick",
            of(*(f"roi_heads.box_predictor.{stage}.cls_score" for stage in range(3))),
        ),
    ],
)
def test_layers_for_classes_are_left_out(recipe, expected):
    with torch.device("meta"):
        state = instantiate(get_config(f"CPMask/{recipe}").model).state_dict()
    kept = drop_class_layers(state)
    assert set(state) - set(kept) == expected
    assert all(value is state[name] for name, value in kept.items())


def test_without_a_classifier():
    with pytest.raises(CheckpointMismatchError, match="no layer 'cls_score'"):
        drop_class_layers({"head.weight": torch.zeros(1)})
