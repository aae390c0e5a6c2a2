"""Mask heads in two processes of which one has nothing to learn masks from: neither hangs, both stay equal."""

from functools import partial

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks

from instseg_d2.data.occluders import occluder_masks
from instseg_d2.modeling.mask_heads.bcnet import RELEASED, BCNetHead
from instseg_d2.modeling.mask_heads.cpmask import CPMaskHead
from instseg_d2.testing import (
    TINY_CHANNELS,
    fake_batch,
    fake_instances,
    put_mask_head,
    tiny_fcos_mask_config,
    tiny_mask_rcnn_config,
    train_on_ranks,
)

LOSSES = {"loss_mask", "loss_contour", "loss_occluder", "loss_occluder_contour"}
OVERLAPPING = [[4, 4, 40, 40], [16, 16, 60, 60]]
APART = [[2, 2, 28, 28], [50, 30, 90, 60]]


def build(settings):
    torch.manual_seed(0)
    head = L(BCNetHead)(
        input_shape=L(ShapeSpec)(channels=TINY_CHANNELS, width=14, height=14),
        conv_dim=TINY_CHANNELS,
        num_convs=2,
        **settings,
    )
    return instantiate(put_mask_head(tiny_mask_rcnn_config(), head))


def batch_of(boxes):
    batch = fake_batch(images=1)
    truth = fake_instances(64, 96, boxes)
    truth.gt_occluders = BitMasks(occluder_masks(truth.gt_masks.tensor, truth.gt_boxes.tensor))
    batch[0]["instances"] = truth
    return batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("boxes", "settings"), [(APART, {}), ([], RELEASED)], ids=["no overlap, paper", "no object, released"]
)
def test_bcnet_with_a_process_that_sees_no_occluder(tmp_path, boxes, settings):
    batches = [batch_of(OVERLAPPING), batch_of(boxes)]
    (weights, losses), (other_weights, other_losses) = train_on_ranks(partial(build, settings), batches, tmp_path)
    assert torch.equal(weights, other_weights)
    assert set(losses) == set(other_losses) >= LOSSES
    assert losses["loss_occluder"] > 0
    assert other_losses["loss_occluder"] == other_losses["loss_occluder_contour"] == 0
    assert (other_losses["loss_mask"] > 0) == bool(boxes)


def build_cpmask():
    torch.manual_seed(0)
    head = L(CPMaskHead)(
        input_shape=L(ShapeSpec)(channels=TINY_CHANNELS, width=14, height=14),
        conv_dim=TINY_CHANNELS,
        num_convs=1,
        num_boundary_convs=1,
    )
    return instantiate(put_mask_head(tiny_fcos_mask_config(), head))


def half_filled(boxes, has_mask):
    batch = fake_batch(images=1)
    truth = fake_instances(64, 96, boxes)
    truth.gt_masks.tensor[:, :, 28:] = False
    truth.gt_has_mask = torch.full((len(boxes),), has_mask)
    batch[0]["instances"] = truth
    return batch


@pytest.mark.slow
def test_cpmask_with_a_process_that_sees_no_mask(tmp_path):
    batches = [half_filled(OVERLAPPING, True), half_filled(OVERLAPPING, False)]
    (weights, losses), (other_weights, other_losses) = train_on_ranks(build_cpmask, batches, tmp_path)
    assert torch.equal(weights, other_weights)
    assert losses.keys() == other_losses.keys()
    for name in ("loss_mask", "loss_boundary", "loss_affinity"):
        assert losses[name] > 0
        assert other_losses[name] == 0
    assert all(value > 0 for name, value in other_losses.items() if "fcos" in name)
