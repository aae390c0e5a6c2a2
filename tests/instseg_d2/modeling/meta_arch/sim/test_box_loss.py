"""Supervision by boxes around SIM: what it takes for the object, with and without pasting."""

import pytest
import torch
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from instseg_d2.modeling.meta_arch.condinst.boxinst import BoxInstLoss
from instseg_d2.modeling.meta_arch.sim.box_loss import BoxesAsMasks, SIMBoxLoss
from instseg_d2.testing import fake_batch, fake_instances, tiny_condinst


def test_masks_of_the_data_set_are_not_looked_at_and_pasted_ones_are():
    truth = fake_instances(32, 32, [[0, 0, 16, 16], [8, 8, 32, 32]])
    boxes = BoxInstLoss().object_maps(truth, (8, 8), 4)
    truth.gt_masks = BitMasks(torch.zeros(2, 32, 32, dtype=torch.bool))
    truth.gt_masks.tensor[:, :, 2] = True
    truth.gt_has_mask = torch.tensor([True, True])
    assert torch.equal(SIMBoxLoss().object_maps(truth, (8, 8), 4), boxes)
    assert torch.equal(BoxesAsMasks().object_maps(truth, (8, 8), 4), boxes)
    truth.gt_pasted = torch.tensor([False, True])
    assert SIMBoxLoss().object_maps(truth, (8, 8), 4).nonzero()[:, 2].unique().tolist() == [0]


def test_boxes_as_masks_by_hand():
    """Half of the box at probability 1, nothing elsewhere: dice loss 1 - 2 * 1/2 / (1/2 + 1)."""
    model = tiny_condinst(recipe="boxes_as_masks")
    batch = fake_batch(1)
    batch[0]["instances"] = fake_instances(64, 96, [[16, 16, 48, 48]])
    batch[0]["instances"].remove("gt_masks")
    with EventStorage():
        _, step = model.training_pass(batch)
    step.logits.data.fill_(-50.0)
    # The box ends with its last pixel, 48, which no point of the grid (1, 3, ...) is.
    step.logits.data[:, 8:24, 8:16] = 50.0
    loss = model.mask_losses(step)["loss_mask"]
    assert loss.item() == pytest.approx(1 - 2 * 0.5 / 1.5, abs=1e-4)
    assert model.supervision.object_areas(batch[0]["instances"]).tolist() == [32 * 32]
