"""The contract of mask heads, on a head of one weight, and on one that predicts a second map."""

import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn

from instseg_d2.layers.mask_losses import mask_bce
from instseg_d2.modeling.mask_heads.base import MaskHead, attach
from instseg_d2.modeling.mask_heads.targets import crop_targets
from instseg_d2.testing import fake_instances


class OneWeightHead(MaskHead):
    """The features, each class with its own factor."""

    def __init__(self, num_classes=1, **kwargs):
        super().__init__(**kwargs)
        self.weight = nn.Parameter(torch.arange(1.0, 1 + num_classes))

    def layers(self, x, instances):
        return x, x * self.weight[:, None, None]


class OccluderHead(OneWeightHead):
    """With a second map, its loss, and its prediction: what a bilayer head adds."""

    def layers(self, x, instances):
        features, masks = super().layers(x, instances)
        return features, {"masks": masks, "occluder_masks": -masks}

    @property
    def loss_names(self):
        return ["loss_mask", "loss_occluder"]

    def map_losses(self, maps, targets, instances):
        occluders = crop_targets(instances, 4, "gt_occluders")
        return {
            **super().map_losses(maps, targets, instances),
            "loss_occluder": mask_bce(maps["occluder_masks"], occluders),
        }

    def inference(self, logits, instances):
        attach(instances, "pred_occluder_masks", logits["occluder_masks"].sigmoid())
        return super().inference(logits, instances)


def training_regions(*sizes):
    images = [fake_instances(16, 16, [[0, 0, 8, 8]] * size) for size in sizes]
    for x in images:
        x.proposal_boxes = x.gt_boxes.clone()
    return images


def detections(*sizes, classes=0):
    images = [fake_instances(16, 16, [[0, 0, 8, 8]] * size) for size in sizes]
    for x in images:
        x.pred_boxes = x.gt_boxes
        x.pred_classes = x.gt_classes + classes
    return images


def test_training_gives_losses_and_weighs_them():
    x = torch.zeros(3, 1, 4, 4)
    with EventStorage() as storage:
        losses = OneWeightHead(loss_weight=2.0)(x, training_regions(1, 2))
    assert losses["loss_mask"].item() == pytest.approx(2 * 0.693147, rel=1e-5)
    assert storage.latest()["mask_rcnn/false_negative"][0] == 1


def test_inference_attaches_the_mask_of_the_predicted_class():
    head = OneWeightHead(num_classes=3).eval()
    images = head(torch.ones(3, 1, 4, 4), detections(2, 1, classes=2))
    assert [x.pred_masks.shape for x in images] == [(2, 1, 4, 4), (1, 1, 4, 4)]
    assert torch.allclose(images[1].pred_masks, torch.tensor(3.0).sigmoid())


def test_no_region_gives_a_zero_that_reaches_the_weights():
    head = OneWeightHead()
    losses = head(torch.zeros(0, 1, 4, 4), training_regions(0, 0))
    losses["loss_mask"].backward()
    assert losses["loss_mask"].item() == 0
    assert head.weight.grad.item() == 0


def test_no_detection_gives_no_mask():
    images = OneWeightHead().eval()(torch.zeros(0, 1, 4, 4), detections(0, 0))
    assert [x.pred_masks.shape for x in images] == [(0, 1, 4, 4)] * 2


def test_hidden_masks_count_neither_in_the_sum_nor_in_the_number():
    head, x = OneWeightHead(), torch.randn(3, 1, 4, 4, requires_grad=True)
    images = training_regions(2, 1)
    images[0].gt_has_mask = torch.tensor([True, False])
    images[1].gt_has_mask = torch.tensor([True])
    with EventStorage():
        loss = head(x, images)["loss_mask"]
        loss.backward()
        visible = x.detach()[[0, 2]].requires_grad_()
        expected = OneWeightHead()(visible, training_regions(1, 1))["loss_mask"]
        expected.backward()
    assert (x.grad[1] == 0).all()
    assert torch.allclose(x.grad[[0, 2]], visible.grad)
    assert loss.item() == pytest.approx(expected.item())


def test_content_of_hidden_masks_has_no_influence():
    head, x = OneWeightHead(), torch.randn(2, 1, 4, 4)
    losses = []
    for filled in (True, False):
        (images,) = training_regions(2)
        images.gt_has_mask = torch.tensor([True, False])
        images.gt_masks.tensor[1] = filled
        with EventStorage():
            losses.append(head(x, [images])["loss_mask"].item())
    assert losses[0] == losses[1] > 0


def test_all_masks_hidden_is_a_zero_even_without_masks():
    head = OneWeightHead()
    (images,) = training_regions(2)
    images.remove("gt_masks")
    images.gt_has_mask = torch.tensor([False, False])
    losses = head(torch.randn(2, 1, 4, 4), [images])
    losses["loss_mask"].backward()
    assert losses["loss_mask"].item() == 0
    assert head.weight.grad.item() == 0


def test_a_head_may_predict_further_maps():
    head, x = OccluderHead(), torch.randn(2, 1, 4, 4)
    images = training_regions(2)
    images[0].gt_occluders = images[0].gt_masks
    with EventStorage():
        losses = head(x, images)
    assert set(losses) == {"loss_mask", "loss_occluder"}
    assert losses["loss_occluder"].item() == pytest.approx(mask_bce(-x, torch.ones_like(x)).item())
    (image,) = head.eval()(x, detections(2))
    assert torch.allclose(image.pred_occluder_masks, (-x).sigmoid())
    assert torch.allclose(image.pred_masks, x.sigmoid())


def test_boxes_are_proposals_in_training_and_detections_after():
    (image,) = detections(1)
    image.proposal_boxes = Boxes(torch.tensor([[1.0, 2, 3, 4]]))
    head = OneWeightHead()
    assert head.boxes([image])[0] is image.proposal_boxes
    assert head.eval().boxes([image])[0] is image.pred_boxes
