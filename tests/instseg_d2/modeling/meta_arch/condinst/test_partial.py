"""BoxInst with some masks: each positive has the losses that its truth allows, and no others."""

import pytest
import torch
from detectron2.structures import ImageList, Instances

from instseg_d2.modeling.meta_arch.condinst.boxinst import BoxInstLoss
from instseg_d2.modeling.meta_arch.condinst.losses import MaskDiceLoss, MaskStep
from instseg_d2.modeling.meta_arch.condinst.partial import PartialBoxInstLoss, seen_positives, select_positives
from instseg_d2.testing import fake_instances

BOXES = [[[0, 0, 16, 32], [8, 8, 24, 24]], [[4, 4, 28, 20]]]
SEEN = [[True, False], [False]]
POSITIVES = [[0, 1, 1], [0]]


def make_step(seen=SEEN, positives=POSITIVES):
    torch.manual_seed(0)
    count = sum(map(len, positives))
    truth = []
    for boxes, flags in zip(BOXES, seen, strict=True):
        truth.append(fake_instances(32, 32, boxes))
        if flags is not None:
            truth[-1].gt_has_mask = torch.tensor(flags)
    return MaskStep(
        inputs=[{"image": torch.full((3, 32, 32), 90, dtype=torch.uint8), "height": 32} for _ in BOXES],
        images=ImageList(torch.zeros(2, 3, 32, 32), [(32, 32)] * 2),
        truth=truth,
        positives=[Instances((32, 32), gt_inds=torch.tensor(x, dtype=torch.int64)) for x in positives],
        mask_features=torch.zeros(0),
        logits=torch.randn(count, 8, 8).requires_grad_(),
    )


def supervision():
    return PartialBoxInstLoss(masks=MaskDiceLoss(), boxes=BoxInstLoss(warmup_iters=0, bottom_pixels_removed=0))


def test_losses_are_those_of_the_parts():
    step = make_step()
    assert seen_positives(step).tolist() == [True, False, False, False]
    losses = supervision()(step)
    alone = select_positives(step, torch.tensor([True, False, False, False]))
    torch.testing.assert_close(losses["loss_mask"], MaskDiceLoss()(alone)["loss_mask"])
    boxes = supervision().boxes(select_positives(step, torch.tensor([False, True, True, True])))
    assert set(losses) == {"loss_mask", *boxes}
    for name, value in boxes.items():
        torch.testing.assert_close(losses[name], value)


@pytest.mark.parametrize(
    ("seen", "positives", "zero"),
    [
        ([None, None], POSITIVES, {"loss_prj", "loss_pairwise"}),
        ([[False, False], [False]], POSITIVES, {"loss_mask"}),
        (SEEN, [[], []], {"loss_mask", "loss_prj", "loss_pairwise"}),
    ],
    ids=["all seen", "all hidden", "no positives"],
)
def test_losses_without_a_positive_are_zero_with_a_graph(seen, positives, zero):
    step = make_step(seen, positives)
    losses = supervision()(step)
    assert {name for name, value in losses.items() if value == 0} == zero
    sum(losses.values()).backward()
    assert step.logits.grad.isfinite().all()


def test_maps_and_areas_are_those_of_the_masks():
    truth = make_step().truth[0]
    assert torch.equal(supervision().object_maps(truth, (8, 8), 4), MaskDiceLoss().object_maps(truth, (8, 8), 4))
    assert supervision().object_areas(truth).tolist() == [512, 256]
