import math

import pytest
import torch

from instseg_d2.inpainting.shape.losses import ShapeLoss


def masks(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, 1, -1)


def test_values_by_hand():
    """At logit 0 each pixel costs log 2; hidden and erased ones five times that. Dice is 1 - 2 (2 * 0.5) / (1 + 2)."""
    logits = torch.zeros(1, 1, 1, 1, 4)
    visible, complete, eraser = masks(1, 0, 0, 0), masks(1, 1, 0, 0), masks(0, 1, 1, 0)
    losses = ShapeLoss(epsilon=0.0)(logits, visible, complete, eraser)
    assert losses["loss_shape_bce"].item() == pytest.approx((1 + 5 + 5 + 1) / 4 * math.log(2))
    assert losses["loss_shape_dice"].item() == pytest.approx(1 - 2 / 3)
    without = ShapeLoss()(logits, visible, complete)
    assert without["loss_shape_bce"].item() == pytest.approx((1 + 5 + 1 + 1) / 4 * math.log(2))


def test_weights():
    logits = torch.randn(1, 2, 1, 3, 3)
    complete = (torch.rand(1, 2, 1, 3, 3) > 0.5).float()
    once = ShapeLoss(erased_weight=1.0)(logits, complete, complete)
    twice = ShapeLoss(erased_weight=1.0, bce_weight=2.0, dice_weight=3.0)(logits, complete, complete)
    torch.testing.assert_close(twice["loss_shape_bce"], 2 * once["loss_shape_bce"])
    torch.testing.assert_close(twice["loss_shape_dice"], 3 * once["loss_shape_dice"])


def test_frames_without_the_object_leave_dice_alone():
    logits = torch.randn(1, 2, 1, 4, 4, requires_grad=True)
    complete = torch.zeros(1, 2, 1, 4, 4)
    complete[:, 0, :, 1:3] = 1
    both = ShapeLoss()(logits, complete, complete)["loss_shape_dice"]
    first = ShapeLoss()(logits[:, :1], complete[:, :1], complete[:, :1])["loss_shape_dice"]
    torch.testing.assert_close(both, first)
    nothing = ShapeLoss()(logits, complete * 0, complete * 0)
    assert nothing["loss_shape_dice"] == 0
    sum(nothing.values()).backward()
    assert logits.grad.isfinite().all()


def test_half_precision_logits():
    logits = torch.randn(1, 1, 1, 4, 4, dtype=torch.bfloat16)
    losses = ShapeLoss()(logits, torch.ones(1, 1, 1, 4, 4), torch.ones(1, 1, 1, 4, 4))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
