"""Names of features that are not covered import, and raise on use."""

import importlib

import pytest

LEFT_OUT = {
    "detectron2.modeling": [
        *("DatasetMapperTTA", "GeneralizedRCNNWithTTA", "MMDetBackbone", "MMDetDetector", "MViT"),
        *("SimpleFeaturePyramid", "ViT", "get_vit_lr_decay_rate"),
    ],
    "detectron2.modeling.anchor_generator": ["RotatedAnchorGenerator"],
    "detectron2.modeling.backbone": ["RegNet"],
    "detectron2.modeling.box_regression": ["Box2BoxTransformRotated"],
    "detectron2.modeling.proposal_generator.rrpn": ["RRPN", "find_top_rrpn_proposals"],
    "detectron2.modeling.test_time_augmentation": ["DatasetMapperTTA", "GeneralizedRCNNWithTTA"],
}


@pytest.mark.bundled_only
@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in LEFT_OUT.items() for n in names])
def test_left_out(module, name):
    with pytest.raises(NotImplementedError, match=f"{name}.*does not cover"):
        getattr(importlib.import_module(module), name)()


@pytest.mark.bundled_only
def test_rotated_pooling_is_left_out():
    from detectron2.modeling.poolers import ROIPooler

    with pytest.raises(NotImplementedError, match="rotated boxes"):
        ROIPooler(7, (0.25,), 0, "ROIAlignRotated")
