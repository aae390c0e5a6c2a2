import math

import pytest
import torch
from detectron2.structures import ImageList, PolygonMasks
from torch.nn import functional as F

from instseg_d2.data import DatasetError
from instseg_d2.modeling.meta_arch.mask2former.criterion import PointMaskLoss, QueryStep, smooth_dice
from instseg_d2.modeling.meta_arch.mask2former.transformer_decoder import QueryOutput
from instseg_d2.testing import fake_instances


def query_step(truth, outputs, padded=(32, 32)):
    """One step of images of 32 x 32 px in all, with masks of stride 4."""
    count = len(truth)
    return QueryStep(
        inputs=[{"image": torch.full((3, *x.image_size), 90, dtype=torch.uint8)} for x in truth],
        images=ImageList(torch.zeros(count, 3, *padded), [x.image_size for x in truth]),
        truth=truth,
        mask_features=torch.zeros(count, 4, 8, 8),
        outputs=outputs,
    )


def output(count=1, queries=3, classes=3, seed=0, mask_logits=None):
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randn(count, queries, 8, 8, generator=rng) if mask_logits is None else mask_logits
    return QueryOutput(
        torch.randn(count, queries, classes + 1, generator=rng).requires_grad_(), masks.clone().requires_grad_()
    )


def objects():
    return fake_instances(32, 32, [[0, 0, 16, 16], [16, 8, 32, 32]], [0, 2])


def perfect(truth, queries=3, size=20.0):
    """Logits of queries whose first masks are the objects', at stride 4."""
    masks = torch.full((1, queries, 8, 8), -size)
    masks[0, : len(truth)] = size * (2 * truth.gt_masks.tensor[:, 2::4, 2::4].float() - 1)
    return masks


def loss(**settings):
    return PointMaskLoss(num_points=512, **settings)


def test_keys_are_the_parts_of_every_layer():
    torch.manual_seed(0)
    losses = loss()(query_step([objects()], [output(seed=i) for i in range(3)]))
    parts = ["loss_class", "loss_mask", "loss_dice"]
    assert list(losses) == parts + [f"{part}_0" for part in parts] + [f"{part}_1" for part in parts]
    only = loss()(query_step([objects()], [output()]))
    assert list(only) == parts


def test_layers_are_matched_on_their_own():
    """The last layer has the masks in another order than the first; both are right."""
    torch.manual_seed(0)
    truth = objects()
    masks = perfect(truth)
    losses = loss()(query_step([truth], [output(mask_logits=masks), output(mask_logits=masks.flip(1))]))
    assert losses["loss_dice"].item() < 0.5
    assert losses["loss_dice_0"].item() < 0.5


def test_class_loss_by_hand():
    """Queries 0 and 1 have the objects, query 2 none, which counts a tenth."""
    torch.manual_seed(0)
    truth = objects()
    one = output(mask_logits=perfect(truth))
    value = loss(class_weight=2.0, no_object_weight=0.1)(query_step([truth], [one]))["loss_class"]
    logs = one.class_logits[0].log_softmax(dim=1)
    expected = -(logs[0, 0] + logs[1, 2] + 0.1 * logs[2, 3]) / 2.1
    assert value.item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_mask_losses_of_zero_logits():
    """At probability 1/2 cross entropy is log 2 wherever points lie; where they are all inside, so is the dice loss."""
    torch.manual_seed(0)
    truth = fake_instances(32, 32, [[0, 0, 32, 32]], [1])
    one = output(mask_logits=torch.zeros(1, 3, 8, 8))
    losses = loss(bce_weight=3.0, dice_weight=4.0)(query_step([truth], [one]))
    assert losses["loss_mask"].item() == pytest.approx(3 * math.log(2), rel=1e-5)
    # Bilinear values fall off to a half at the very border.
    assert losses["loss_dice"].item() == pytest.approx(4 * (1 - 513 / 769), rel=0.05)


def test_smooth_dice_by_hand():
    value = smooth_dice(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
    assert value.tolist() == pytest.approx([1 - 2 / 3, 0])


def test_right_masks_have_little_loss_and_wrong_ones_much():
    torch.manual_seed(0)
    truth = objects()
    right = loss()(query_step([truth], [output(mask_logits=perfect(truth))]))
    wrong = loss()(query_step([truth], [output(mask_logits=-perfect(truth))]))
    # Where the mask is unsure most points lie, and there stride 4 is coarse.
    assert right["loss_dice"] < 1 < wrong["loss_dice"]
    assert right["loss_mask"] < 0.2 * wrong["loss_mask"]


def test_mask_losses_are_divided_by_the_number_of_objects():
    truth = objects()
    masks = perfect(truth, size=1.0)
    single = query_step([truth], [output(mask_logits=masks)])
    double = query_step([truth, truth], [output(count=2, mask_logits=masks.expand(2, -1, -1, -1))])
    torch.manual_seed(0)
    one, two = loss()(single), loss()(double)
    for name in ("loss_mask", "loss_dice"):
        assert one[name].item() == pytest.approx(two[name].item(), rel=0.05)


def test_masks_lie_on_the_padded_batch():
    """An image of 16 x 24 px in a batch of 32 x 32: its object is the upper left part of the map."""
    torch.manual_seed(0)
    truth = fake_instances(16, 24, [[0, 0, 24, 16]], [0])
    logits = torch.full((1, 3, 8, 8), -20.0)
    logits[0, 1, :4, :6] = 20.0
    step = query_step([truth], [output(mask_logits=logits)])
    supervision = loss()
    targets = supervision.targets(step)
    assert targets.masks.shape == (1, 32, 32)
    assert targets.masks.sum() == 16 * 24
    assert targets.images[0].boxes.tolist() == [[0, 0, 0.75, 0.5]]
    assert supervision.matcher(step.outputs[0], targets.images).queries.tolist() == [1]


def test_hidden_masks_train_the_class_alone():
    torch.manual_seed(0)
    truth = objects()
    truth.gt_has_mask = torch.tensor([True, False])
    masks = perfect(truth)
    one = output(mask_logits=masks)
    losses = loss()(query_step([truth], [one]))
    (losses["loss_mask"] + losses["loss_dice"]).backward()
    assert one.mask_logits.grad[0, 0].abs().sum() > 0
    assert one.mask_logits.grad[0, 1].abs().sum() == 0
    logs = one.class_logits[0].log_softmax(dim=1)
    assert losses["loss_class"].item() == pytest.approx(-2 * (logs[0, 0] + logs[1, 2] + 0.1 * logs[2, 3]).item() / 2.1)


def test_only_masks_that_are_seen_are_counted():
    truth = objects()
    truth.gt_has_mask = torch.tensor([True, False])
    losses = loss(bce_weight=1.0)(query_step([truth], [output(mask_logits=torch.zeros(1, 3, 8, 8))]))
    assert losses["loss_mask"].item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("hidden", [False, True])
def test_without_a_mask_to_learn_losses_keep_the_graph(hidden):
    truth = objects() if hidden else fake_instances(32, 32, [])
    truth.remove("gt_masks") if not hidden else truth.set("gt_has_mask", torch.tensor([False, False]))
    one = output()
    losses = loss()(query_step([truth], [one]))
    assert losses["loss_mask"].item() == losses["loss_dice"].item() == 0
    assert losses["loss_class"] > 0
    sum(losses.values()).backward()
    assert one.mask_logits.grad.abs().sum() == 0


def test_all_queries_without_object_learn_that_there_is_none():
    one = output()
    value = loss(class_weight=1.0)(query_step([fake_instances(32, 32, [])], [one]))["loss_class"]
    assert value.item() == pytest.approx(F.cross_entropy(one.class_logits[0], torch.full((3,), 3)).item())


def test_polygons_count_as_masks():
    truth = objects()
    polygons = [[[0.0, 0, 16, 0, 16, 16, 0, 16]], [[16.0, 8, 32, 8, 32, 32, 16, 32]]]
    masks = truth.gt_masks.tensor
    truth.gt_masks = PolygonMasks(polygons)
    assert torch.equal(loss().targets(query_step([truth], [output()])).masks, masks)


def test_objects_without_masks_are_an_error():
    truth = objects()
    truth.remove("gt_masks")
    with pytest.raises(DatasetError, match="2 objects has no ground-truth masks.*use_instance_mask"):
        loss()(query_step([truth], [output()]))
