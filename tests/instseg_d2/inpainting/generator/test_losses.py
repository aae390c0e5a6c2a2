import pytest
import torch

from instseg_d2.inpainting.generator.losses import ReconstructionLoss


def test_values_by_hand():
    clean, hole, complete = torch.zeros(1, 1, 3, 8, 8), torch.zeros(1, 1, 1, 8, 8), torch.zeros(1, 1, 1, 8, 8)
    complete[..., 2:4, 2:4] = 1
    hole[..., 2, 2:4] = 1
    prediction = 0.5 * hole + 0.25 * (complete - hole) + (1 - complete) * 0.125
    prediction = prediction.expand_as(clean).clone().requires_grad_()
    losses = ReconstructionLoss()(prediction, clean, hole, complete)
    assert losses["loss_inpaint_hole"].item() == pytest.approx(0.5)
    assert losses["loss_inpaint_valid"].item() == pytest.approx((2 * 0.25 + 60 * 0.125) / 62)
    # The box of 2 px, half as large again, still holds the same pixel centres; twice as large it has 4 by 4.
    boxed = ReconstructionLoss(valid_region="box")(prediction, clean, hole, complete)
    assert boxed["loss_inpaint_valid"].item() == pytest.approx(0.25)
    wide = ReconstructionLoss(valid_region="box", box_scale=2.0, valid_weight=2.0)(prediction, clean, hole, complete)
    assert wide["loss_inpaint_valid"].item() == pytest.approx(2 * (2 * 0.25 + 12 * 0.125) / 14)
    sum(wide.values()).backward()
    assert prediction.grad[..., 7, 7].eq(0).all()


def test_no_hole_is_a_zero_with_a_graph():
    prediction = torch.rand(1, 2, 3, 4, 4, requires_grad=True)
    nothing = torch.zeros(1, 2, 1, 4, 4)
    losses = ReconstructionLoss(valid_region="box")(prediction, prediction.detach() + 1, nothing, nothing)
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert prediction.grad.eq(0).all()


def test_half_precision():
    prediction = torch.rand(1, 1, 3, 4, 4).bfloat16()
    mask = torch.ones(1, 1, 1, 4, 4)
    assert ReconstructionLoss()(prediction, prediction, mask, mask)["loss_inpaint_hole"].dtype == torch.float32


def test_unknown_region():
    with pytest.raises(ValueError, match="valid_region='object': one of frame, box"):
        ReconstructionLoss(valid_region="object")
