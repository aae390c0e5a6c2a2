"""AdelaiDet's names find their places: every parameter once, towers, scales, norms, warm-up."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from instseg_d2.checkpoint import CheckpointMismatchError
from instseg_d2.checkpoint.adelaidet_condinst import convert_condinst
from instseg_d2.model_zoo import get_config
from instseg_d2.modeling.meta_arch.condinst.branch import SemanticHead


def released_names(model):
    """The names that AdelaiDet gives to the tensors of one of our models, written from its module tree."""
    names = {}
    for name in model.state_dict():
        if name == "detector.head.level_scales":
            continue
        old = name
        for new, former in {
            "detector.backbone.": "backbone.",
            "detector.head.cls_subnet.": "proposal_generator.fcos_head.cls_tower.",
            "detector.head.bbox_subnet.": "proposal_generator.fcos_head.bbox_tower.",
            "detector.head.cls_score.": "proposal_generator.fcos_head.cls_logits.",
            "detector.head.bbox_pred.": "proposal_generator.fcos_head.bbox_pred.",
            "detector.head.ctrness.": "proposal_generator.fcos_head.ctrness.",
            "detector.head.extra.": "controller.",
            "semantic_head.convs.": "mask_branch.seg_head.",
            "semantic_head.predictor.": "mask_branch.logits.",
            "supervision.iterations": "mask_head._iter",
        }.items():
            old = old.replace(new, former)
        parts = old.split(".")
        if parts[:2] in (["mask_branch", "refine"], ["mask_branch", "tower"], ["mask_branch", "seg_head"]):
            if parts[3] == "norm":
                parts[3] = "1"
            elif parts[2] != "4" or parts[1] != "tower":  # the last of the tower has no norm and is no block
                parts.insert(3, "0")
        names[".".join(parts)] = name
    return names


@pytest.fixture(scope="module")
def model():
    config = get_config("SIM/boxinst_r50_fpn_coco_1x").model
    config.semantic_head = L(SemanticHead)(in_feature="p3", in_channels=256, num_classes=80)
    with torch.device("meta"):
        return instantiate(config)


def test_every_tensor_finds_its_place(model):
    names = released_names(model)
    assert "mask_branch.refine.0.0.weight" in names
    assert "mask_branch.tower.3.1.running_mean" in names
    assert "mask_branch.tower.4.bias" in names
    state = {old: torch.tensor([float(i)]) for i, old in enumerate(names)}
    state.update({f"proposal_generator.fcos_head.scales.{i}.scale": torch.tensor([i + 0.5]) for i in range(5)})
    state["mask_head.sizes_of_interest"] = torch.tensor([64, 128, 256, 512, 1024])
    state["mask_head._iter"] = torch.tensor([90000.0])
    result = convert_condinst(state)
    assert set(result) == set(model.state_dict())
    assert result["detector.head.level_scales"].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert result["supervision.iterations"].item() == 90000
    assert result["supervision.iterations"].dtype == torch.int64
    for old, new in names.items():
        if old != "mask_head._iter":
            assert torch.equal(result[new], state[old])


@pytest.mark.parametrize("name", ["mask_branch.other.weight", "roi_heads.box_head.fc1.weight", "mask_head.weight"])
def test_other_models_are_refused(name):
    with pytest.raises(CheckpointMismatchError, match=name):
        convert_condinst({name: torch.zeros(1)})
