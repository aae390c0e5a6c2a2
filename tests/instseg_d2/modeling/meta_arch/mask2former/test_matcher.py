import itertools

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou

from instseg_d2.layers.box_mask_losses import projection_loss
from instseg_d2.modeling.meta_arch.mask2former.matcher import BoxMatcher, ImageTargets, MaskMatcher, least_cost
from instseg_d2.modeling.meta_arch.mask2former.transformer_decoder import QueryOutput


def targets(masks, classes):
    """Objects with their masks (M, H, W), and the tight boxes of these."""
    boxes = []
    for mask in masks:
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    height, width = masks.shape[1:]
    shares = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / torch.tensor([width, height, width, height])
    return ImageTargets(classes=torch.tensor(classes, dtype=torch.int64), boxes=shares, masks=masks)


def squares():
    """Two objects on 8 x 8 pixels: class 0 at the upper left, class 2 at the lower right."""
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = masks[1, 4:, 2:] = True
    return targets(masks, [0, 2])


def logits_of(masks, size=8.0):
    return size * (2 * masks.float() - 1)


def test_least_sum_of_costs():
    """Greedily row 0 would take column 0, for 1 + 9."""
    rows, columns = least_cost(torch.tensor([[1.0, 2.0], [3.0, 9.0]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
    assert [x.tolist() for x in least_cost(torch.tensor([[5.0], [1.0], [3.0]]))] == [[1], [0]]
    assert [len(x) for x in least_cost(torch.zeros(3, 0))] == [0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_costs_that_are_no_numbers(value):
    with pytest.raises(FloatingPointError, match="not finite"):
        least_cost(torch.tensor([[0.0, value]]))


@pytest.mark.parametrize("matcher", [MaskMatcher(num_points=256), BoxMatcher()])
def test_each_object_gets_the_query_that_fits(matcher):
    torch.manual_seed(0)
    image = squares()
    masks = torch.stack([logits_of(image.masks[1]), torch.full((8, 8), -8.0), logits_of(image.masks[0])])
    output = QueryOutput(torch.zeros(2, 3, 4), torch.stack([masks, masks.flip(0)]))
    matches = matcher(output, [image, image])
    assert matches.images.tolist() == [0, 0, 1, 1]
    assert matches.queries.tolist() == [0, 2, 0, 2]
    assert matches.objects.tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize("matcher", [MaskMatcher(num_points=16), BoxMatcher()])
def test_images_without_objects_and_with_more_than_queries(matcher):
    image = squares()
    nothing = targets(torch.zeros(0, 8, 8, dtype=torch.bool), [])
    output = QueryOutput(torch.zeros(3, 1, 4), torch.zeros(3, 1, 8, 8))
    matches = matcher(output, [nothing, image, nothing])
    assert matches.images.tolist() == [1]
    assert matches.queries.tolist() == [0]
    assert matcher(output, [nothing] * 3).images.dtype == torch.int64


@pytest.mark.parametrize("matcher", [MaskMatcher(num_points=16), BoxMatcher()])
def test_class_decides_between_equal_masks(matcher):
    image = targets(torch.ones(1, 8, 8, dtype=torch.bool), [2])
    classes = torch.tensor([[[5.0, 0, 0, 0], [0, 0, 5.0, 0]]])
    matches = matcher(QueryOutput(classes, torch.ones(1, 2, 8, 8)), [image])
    assert matches.queries.tolist() == [1]


def test_mask_costs_pair_by_pair(monkeypatch):
    """With a point in every middle, costs are those of whole masks."""
    rng = torch.Generator().manual_seed(0)
    image, logits = squares(), torch.randn(3, 8, 8, generator=rng)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    points = (torch.stack([columns, rows], dim=2).reshape(1, 64, 2) + 0.5) / 8
    monkeypatch.setattr(torch, "rand", lambda *size, **_: points)
    classes = torch.randn(3, 4, generator=rng)
    costs = MaskMatcher(class_weight=2.0, bce_weight=3.0, dice_weight=4.0, num_points=64).costs(classes, logits, image)
    for query, thing in itertools.product(range(3), range(2)):
        mask, p = image.masks[thing].float(), logits[query].sigmoid()
        dice = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
        bce = F.binary_cross_entropy_with_logits(logits[query], mask)
        probability = classes[query].softmax(0)[image.classes[thing]]
        expected = 3 * bce + 4 * dice - 2 * probability
        assert costs[query, thing].item() == pytest.approx(expected.item(), rel=1e-4)


def test_box_costs_by_hand():
    """The query fills 4 of 8 columns of the box and all rows: corners at (0, 0, 4, 4) and (0, 0, 8, 4) of 8 pixels."""
    mask, thing = torch.zeros(1, 8, 8, dtype=torch.bool), torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4, :4] = thing[0, :4] = True
    target = targets(thing, [1])
    costs = BoxMatcher(class_weight=0.0, corner_weight=5.0, giou_weight=2.0).costs(
        torch.zeros(1, 3), logits_of(mask), target
    )
    assert costs.item() == pytest.approx(5 * 0.5 - 2 * 0.5)


def test_projection_costs_are_those_of_the_loss():
    rng = torch.Generator().manual_seed(0)
    image, logits = squares(), torch.randn(3, 8, 8, generator=rng)
    matcher = BoxMatcher(class_weight=0.0, corner_weight=0.0, giou_weight=0.0, projection_weight=2.0)
    costs = matcher.costs(torch.zeros(3, 4), logits, image)
    for query, thing in itertools.product(range(3), range(2)):
        expected = projection_loss(logits[query][None].sigmoid(), image.masks[thing][None])
        assert costs[query, thing].item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_empty_masks_and_boxes_have_finite_costs():
    target = ImageTargets(classes=torch.tensor([0]), boxes=torch.zeros(1, 4))
    costs = BoxMatcher().costs(torch.zeros(2, 3), torch.full((2, 8, 8), -1.0), target)
    assert costs.isfinite().all()
    boxes = torch.zeros(1, 4)
    assert generalized_box_iou(boxes, boxes).isnan().all()


def test_costs_are_computed_in_full_precision():
    image, logits = squares(), torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    for matcher in (MaskMatcher(num_points=64), BoxMatcher(projection_weight=1.0)):
        torch.manual_seed(0)
        expected = matcher.costs(torch.zeros(3, 4), logits, image)
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            costs = matcher.costs(torch.zeros(3, 4), logits, image)
        assert costs.dtype == torch.float32
        assert torch.equal(costs, expected)
