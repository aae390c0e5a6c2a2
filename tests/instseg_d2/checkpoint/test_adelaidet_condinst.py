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


def bifpn_names(levels=5, repeats=6):
    """AdelaiDet's names of a BiFPN's nodes by ours: it numbers the inputs of a layer, then its nodes, one by one."""
    names = {}
    for i in range(repeats):
        number = {("in", level): level for level in range(levels)}
        newest, nodes = levels - 1, [("down", level) for level in range(levels - 2, -1, -1)]
        nodes += [("up", level) for level in range(1, levels)]
        for at, (way, level) in enumerate(nodes):
            inputs = [level, newest]
            if way == "up" and ("down", level) in number:
                inputs.insert(1, number["down", level])
            newest = number[way, level] = levels + at
            ours = f"layers.{i}.{way}.{level - (way == 'up')}"
            theirs = "_".join(map(str, [f"f{level}", *inputs]))
            names[f"{ours}.weights"] = f"repeated_bifpn.{i}.weights_{theirs}"
            names[f"{ours}.conv"] = f"repeated_bifpn.{i}.outputs_{theirs}"
        for level in range(levels):
            names[f"layers.{i}.laterals.{level}"] = f"repeated_bifpn.{i}.lateral_{level}_f{level}"
    return {**names, "top_lateral": "bottom_up.res6.reduction", "bottom_up": "bottom_up.backbone"}


def test_every_tensor_of_a_bifpn_finds_its_place():
    with torch.device("meta"):
        backbone = instantiate(get_config("SIM/boxinst_r101_dcn_bifpn_coco_3x").model.detector.backbone)
    by_ours = bifpn_names()
    expected = {}
    for ours in backbone.state_dict():
        prefix = next(prefix for prefix in by_ours if ours == prefix or ours.startswith(f"{prefix}."))
        expected[f"backbone.{by_ours[prefix]}{ours[len(prefix) :]}"] = f"detector.backbone.{ours}"
    assert "backbone.repeated_bifpn.5.outputs_f2_2_6_9.norm.weight" in expected
    assert "backbone.repeated_bifpn.0.lateral_2_f2.bias" in expected
    assert "backbone.bottom_up.backbone.res4.21.conv2_offset.weight" in expected
    state = {theirs: torch.tensor([float(i)]) for i, theirs in enumerate(expected)}
    result = convert_condinst(state)
    assert {theirs: result[ours] for theirs, ours in expected.items()} == state
    assert len(result) == len(state)


@pytest.mark.parametrize("name", ["mask_branch.other.weight", "roi_heads.box_head.fc1.weight", "mask_head.weight"])
def test_other_models_are_refused(name):
    with pytest.raises(CheckpointMismatchError, match=name):
        convert_condinst({name: torch.zeros(1)})
