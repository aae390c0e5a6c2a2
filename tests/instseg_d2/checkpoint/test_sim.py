"""Names of SIM's released code find their places: student, teacher, prototypes and steps."""

import pytest
import torch

from instseg_d2.checkpoint import CheckpointMismatchError, load_weights
from instseg_d2.checkpoint.sim import convert_sim
from instseg_d2.testing import tiny_condinst

# Of the mask branch's tower, the last layer has no norm.
LAST = "1"
COPIED = ("backbone", "proposal_generator", "mask_branch", "controller")


def released_name(ours):
    """The student's name there of one of our tensors, but for the scales of the levels."""
    for new, former in {
        "backbone.": "backbone.",
        "head.cls_subnet.": "proposal_generator.fcos_head.cls_tower.",
        "head.bbox_subnet.": "proposal_generator.fcos_head.bbox_tower.",
        "head.cls_score.": "proposal_generator.fcos_head.cls_logits.",
        "head.bbox_pred.": "proposal_generator.fcos_head.bbox_pred.",
        "head.ctrness.": "proposal_generator.fcos_head.ctrness.",
        "head.extra.": "controller.",
    }.items():
        if ours.startswith(new):
            return former + ours.removeprefix(new)
    _, part, index, *rest = ours.split(".")
    if rest[0] == "norm":
        return ".".join(["mask_branch", part, index, "1", *rest[1:]])
    is_block = part == "refine" or index != LAST
    return ".".join(["mask_branch", part, index, *(["0"] if is_block else []), *rest])


def released_state(model):
    """All tensors of a SIM with a teacher by the released code's names, with random values."""
    result = {"mask_head.sizes_of_interest": torch.arange(5), "_iter": torch.tensor([12345.0])}
    for ours, value in model.state_dict().items():
        random = torch.rand(value.shape) if value.is_floating_point() else value
        student = ours.removeprefix("teacher.").removeprefix("detector.")
        if ours.endswith("iterations"):
            continue
        if ours == "labeler.prototypes.vectors":
            names = {"mask_head.prototypes": random}
        elif student == "head.level_scales":
            names = {f"proposal_generator.fcos_head.scales.{i}.scale": x[None] for i, x in enumerate(random)}
        else:
            names = {released_name(student): random}
        for name, tensor in names.items():
            part, _, rest = name.partition(".")
            copied = ours.startswith("teacher.")
            assert not copied or part in COPIED
            result[f"{part}_ema.{rest}" if copied else name] = tensor
    return result


@pytest.fixture(scope="module")
def model():
    model = tiny_condinst(recipe="sim")
    model.teacher.follow()
    return model


@pytest.fixture(scope="module")
def released(model):
    return released_state(model)


def test_student_teacher_and_prototypes_find_their_places(model, released):
    assert "proposal_generator_ema.fcos_head.scales.3.scale" in released
    assert "mask_branch_ema.tower.0.1.running_var" in released
    assert "controller_ema.bias" in released
    result = convert_sim(released)
    assert {name: x.shape for name, x in result.items()} == {name: x.shape for name, x in model.state_dict().items()}
    assert result["iterations"].item() == result["supervision.iterations"].item() == 12345
    assert result["iterations"].dtype == torch.int64
    assert torch.equal(result["labeler.prototypes.vectors"], released["mask_head.prototypes"])
    for ours, theirs in {
        "detector.head.extra.weight": "controller.weight",
        "teacher.head.extra.weight": "controller_ema.weight",
        "detector.backbone.fpn_output3.weight": "backbone.fpn_output3.weight",
        "teacher.backbone.fpn_output3.weight": "backbone_ema.fpn_output3.weight",
        "teacher.head.bbox_subnet.0.bias": "proposal_generator_ema.fcos_head.bbox_tower.0.bias",
        "teacher.mask_branch.refine.2.norm.running_mean": "mask_branch_ema.refine.2.1.running_mean",
        "mask_branch.tower.1.weight": "mask_branch.tower.1.weight",
    }.items():
        assert torch.equal(result[ours], released[theirs]), ours
    scales = [released[f"proposal_generator_ema.fcos_head.scales.{i}.scale"].item() for i in range(4)]
    assert result["teacher.head.level_scales"].tolist() == scales


def test_converted_weights_load_with_their_teacher(model, released, tmp_path):
    state = convert_sim(released)
    torch.save({"model": state}, tmp_path / "sim.pth")
    other = tiny_condinst(recipe="sim", seed=1)
    load_weights(other, str(tmp_path / "sim.pth"))
    assert other.teacher.started
    for name, value in other.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    "name", ["mask_branch_ema.other.weight", "roi_heads_ema.weight", "mask_head.weight", "mask_head_ema.prototypes"]
)
def test_other_models_are_refused(name):
    with pytest.raises(CheckpointMismatchError, match=name):
        convert_sim({name: torch.zeros(1)})
