"""Mask branch, semantic head, dynamic mask head, and the supervision by masks."""

import math

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks

from instseg_d2.data import DatasetError
from instseg_d2.layers.dynamic_conv import DynamicLayers
from instseg_d2.layers.upsample import aligned_bilinear
from instseg_d2.modeling.meta_arch.condinst.branch import MaskBranch, SemanticHead, semantic_labels
from instseg_d2.modeling.meta_arch.condinst.head import Controller, DynamicMaskHead
from instseg_d2.modeling.meta_arch.condinst.losses import MaskDiceLoss, MaskStep, sample_masks
from instseg_d2.testing import fake_instances


def levels(images=2):
    rng = torch.Generator().manual_seed(0)
    return {
        f"p{k}": torch.randn(images, 4, 2 ** (6 - k), 3 * 2 ** (6 - k), generator=rng, requires_grad=True)
        for k in (3, 4, 5)
    }


def test_mask_branch_sums_refined_levels():
    branch = MaskBranch(in_features=["p3", "p4", "p5"], in_channels=4, channels=6, num_convs=2, out_channels=5)
    features = levels()
    output = branch(features)
    assert output.shape == (2, 5, 8, 24)
    refined = [layer(features[name]) for name, layer in zip(features, branch.refine, strict=True)]
    expected = branch.tower(refined[0] + aligned_bilinear(refined[1], 2) + aligned_bilinear(refined[2], 4))
    assert torch.allclose(output, expected, atol=1e-5)
    output.square().sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in features.values())


def test_size_of_the_branch_of_condinst():
    """Three refining convolutions, four in the tower, all with BatchNorm, and a predictor with bias."""
    branch = MaskBranch(in_features=["p3", "p4", "p5"], in_channels=256)
    expected = 3 * 9 * 256 * 128 + 4 * 9 * 128 * 128 + 7 * 2 * 128 + (128 + 1) * 8
    assert sum(p.numel() for p in branch.parameters()) == expected
    without_norm = MaskBranch(in_features=["p3"], in_channels=4, channels=6, num_convs=0, norm="")
    assert "refine.0.bias" in dict(without_norm.named_parameters())


def test_controller_starts_small():
    torch.manual_seed(0)
    controller = Controller(in_channels=32, layers=DynamicLayers(in_channels=16))
    assert controller(torch.zeros(1, 32, 3, 4)).shape == (1, 233, 3, 4)
    assert controller.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert controller.bias.abs().sum() == 0


def detections(parameters, locations, fpn_levels):
    return Instances((64, 96), extra=parameters, locations=torch.tensor(locations), fpn_levels=torch.tensor(fpn_levels))


def test_head_draws_a_line_through_the_location():
    """Weight 1 on the x coordinate alone: the logit falls by stride / size a column and is 0 at the location."""
    layers = DynamicLayers(in_channels=1, num_layers=1)
    head = DynamicMaskHead(layers=layers, level_sizes=[64, 128], upsampling=1)
    parameters = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 5.0]])
    instances = [detections(parameters, [[28.0, 12.0], [28.0, 12.0]], [0, 1])]
    logits = head(torch.zeros(1, 1, 8, 12), instances, stride=8)
    assert logits.shape == (2, 8, 12)
    assert torch.allclose(logits[0, 5], (3 - torch.arange(12.0)) * 8 / 64)
    assert torch.allclose(logits[1, 0], 5 + (3 - torch.arange(12.0)) * 8 / 128)


def test_head_without_coordinates_is_the_same_everywhere():
    layers = DynamicLayers(in_channels=2, relative_coordinates=False)
    head = DynamicMaskHead(layers=layers, level_sizes=[64])
    parameters = torch.randn(1, layers.num_parameters).expand(2, -1)
    logits = head(torch.ones(1, 2, 4, 4), [detections(parameters, [[4.0, 4], [20.0, 20]], [0, 0])], stride=8)
    assert logits.shape == (2, 8, 8)
    assert (logits - logits[0, 0, 0]).abs().max() < 1e-5


def test_head_takes_each_instance_from_its_image():
    layers = DynamicLayers(in_channels=1, num_layers=1)
    head = DynamicMaskHead(layers=layers, level_sizes=[64], upsampling=1)
    features = torch.tensor([2.0, 5.0])[:, None, None, None].expand(2, 1, 3, 3)
    one = torch.tensor([[0.0, 0, 1, 0]])
    instances = [detections(one, [[4.0, 4]], [0]), detections(one.expand(2, 4), [[4.0, 4]] * 2, [0, 0])]
    assert head(features, instances, stride=8)[:, 0, 0].tolist() == [2, 5, 5]


def test_head_computes_in_float32_under_autocast():
    layers = DynamicLayers(in_channels=4)
    head = DynamicMaskHead(layers=layers, level_sizes=[64])
    features, parameters = torch.randn(1, 4, 6, 6), torch.randn(3, layers.num_parameters)
    instances = [detections(parameters, [[1000.0, 900.0]] * 3, [0] * 3)]
    expected = head(features, instances, stride=8)
    with torch.autocast("cpu", torch.bfloat16):
        result = head(features, instances, stride=8)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


def test_labels_of_the_smallest_object():
    maps = torch.tensor([[[1, 1, 1, 0]], [[0, 1, 0, 0]]]).bool()
    assert semantic_labels(maps, torch.tensor([9, 4]), torch.tensor([2, 0]), 3).tolist() == [[2, 0, 2, 3]]
    assert semantic_labels(maps[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64), 3).tolist() == [[3] * 4]


def test_semantic_loss_by_hand():
    """Logits 0: focal loss ln 2 / 4 a logit, times 0.25 for the two classes that are there, 0.75 for the other four."""
    head = SemanticHead(in_feature="p3", in_channels=4, num_classes=2, channels=6, loss_weight=3.0)
    assert head(levels())[:, :, 0, 0].shape == (2, 2)
    loss = head.losses(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 2]]]))["loss_sem"]
    assert loss.item() == pytest.approx(3 * (2 * 0.25 + 4 * 0.75) * 0.25 * math.log(2) / 2)
    without = head.losses(torch.zeros(1, 2, 1, 3), torch.full((1, 1, 3), 2))["loss_sem"]
    assert without.item() == pytest.approx(3 * 6 * 0.75 * 0.25 * math.log(2))


def test_masks_are_looked_up_and_padded():
    truth = fake_instances(20, 30, [[0, 0, 7, 11], [6, 6, 7, 7]])
    maps = sample_masks(truth, (8, 8), 4)
    assert maps[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    assert maps[1].nonzero().tolist() == [[1, 1]]
    polygons = [[[0.0, 0, 8, 0, 8, 11.6, 0, 11.6]], [[6.0, 6, 7, 6, 7, 7, 6, 7]]]
    truth.gt_masks = PolygonMasks(polygons)
    assert torch.equal(sample_masks(truth, (8, 8), 4)[0], maps[0])


def test_truth_without_masks():
    truth = fake_instances(20, 30, [])
    truth.remove("gt_masks")
    assert sample_masks(truth, (8, 8), 4).shape == (0, 8, 8)
    assert MaskDiceLoss().object_areas(truth).shape == (0,)
    boxes_alone = Instances((20, 30), gt_boxes=Boxes(torch.tensor([[0.0, 0, 8, 8]])))
    with pytest.raises(DatasetError, match=r"\(20, 30\) .* with 1 objects has no ground-truth masks.*by boxes"):
        sample_masks(boxes_alone, (8, 8), 4)


def mask_step(truth, gt_inds, logits, size=(32, 32)):
    positives = [Instances(size, gt_inds=torch.tensor(x, dtype=torch.int64)) for x in gt_inds]
    images = ImageList(torch.zeros(len(truth), 3, *size), [size] * len(truth))
    return MaskStep(
        inputs=[], images=images, truth=truth, positives=positives, mask_features=torch.zeros(0), logits=logits
    )


def test_step_knows_images_and_objects():
    truth = [
        fake_instances(32, 32, [[0, 0, 8, 8]]),
        fake_instances(32, 32, []),
        fake_instances(32, 32, [[0, 0, 9, 9]] * 2),
    ]
    step = mask_step(truth, [[0, 0], [], [1, 0]], torch.zeros(4, 8, 8))
    assert step.stride == 4
    assert step.image_inds.tolist() == [0, 0, 2, 2]
    assert step.gt_inds.tolist() == [0, 0, 2, 1]


def test_dice_loss_of_visible_masks_alone():
    """A mask of a quarter of the map at probability 1/2: 1 - 2 * 8 / (16 + 16) = 1/2."""
    truth = fake_instances(32, 32, [[0, 0, 16, 16], [0, 0, 32, 32]])
    logits = torch.zeros(3, 8, 8, requires_grad=True)
    step = mask_step([truth], [[0, 1, 0]], logits)
    quarter, full = 1 - 16 / 32, 1 - 64 / (16 + 64)
    assert MaskDiceLoss()(step)["loss_mask"].item() == pytest.approx((2 * quarter + full) / 3, rel=1e-5)
    truth.gt_has_mask = torch.tensor([True, False])
    loss = MaskDiceLoss(loss_weight=2.0)(step)["loss_mask"]
    assert loss.item() == pytest.approx(2 * quarter, rel=1e-5)
    loss.backward()
    assert logits.grad[1].abs().sum() == 0
    truth.gt_has_mask = torch.tensor([False, False])
    truth.gt_masks = BitMasks(~truth.gt_masks.tensor)
    loss = MaskDiceLoss()(step)["loss_mask"]
    assert loss.item() == 0
    loss.backward()


def test_quarter_masks_at_half_probability_have_their_area():
    truth = fake_instances(32, 32, [[0, 0, 16, 16]])
    assert MaskDiceLoss().object_areas(truth).tolist() == [256]
