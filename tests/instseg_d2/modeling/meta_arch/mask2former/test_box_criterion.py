"""Supervision of queries by boxes: its losses by hand, warm-up, and no bit of any mask in any loss, crops included."""

import copy
import json
import math
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import ImageList

from instseg_d2.data import BoxSupervision, FullSupervision, InstanceMapper, get_supervised_dataset_dicts, register_coco
from instseg_d2.layers.box_mask_losses import projection_loss
from instseg_d2.modeling.meta_arch.mask2former.box_criterion import BoxLoss
from instseg_d2.modeling.meta_arch.mask2former.criterion import QueryStep
from instseg_d2.modeling.meta_arch.mask2former.transformer_decoder import QueryOutput
from instseg_d2.testing import fake_instances, tiny_mask2former_config, write_tiny_coco


def box_step(boxes, mask_logits, picture=None):
    """One image of 32 x 32 px in one color, whose first queries' masks are (Q, 8, 8) at stride 4."""
    truth = fake_instances(32, 32, boxes)
    truth.remove("gt_masks")
    picture = torch.full((3, 32, 32), 90, dtype=torch.uint8) if picture is None else picture
    return QueryStep(
        inputs=[{"image": picture}],
        images=ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)]),
        truth=[truth],
        mask_features=torch.zeros(1, 4, 8, 8),
        outputs=[QueryOutput(torch.zeros(1, len(mask_logits), 2), mask_logits[None])],
    )


def settled(**settings):
    return BoxLoss(warmup_iters=0, bottom_pixels_removed=0, **settings)


def test_losses_by_hand():
    """All pixels of one color: every neighbor counts. At probability 0.8, P(same) = 0.68 in the whole box."""
    logits = torch.full((1, 8, 8), math.log(4), requires_grad=True)
    losses = settled(projection_weight=2.0, pairwise_weight=3.0)(box_step([[0, 0, 16, 32]], logits))
    assert list(losses) == ["loss_class", "loss_prj", "loss_pairwise"]
    columns, rows = 1 - 2 * 3.2 / (8 * 0.64 + 4), 1 - 2 * 6.4 / (8 * 0.64 + 8)
    assert losses["loss_prj"].item() == pytest.approx(2 * (columns + rows), rel=1e-5)
    assert losses["loss_pairwise"].item() == pytest.approx(-3 * math.log(0.68), rel=1e-5)
    sum(losses.values()).backward()
    assert logits.grad.isfinite().all()


def test_projections_are_summed_over_objects_and_divided_by_their_number():
    logits = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = [[0, 0, 16, 16], [8, 12, 32, 32]]
    step = box_step(boxes, logits)
    supervision = settled(projection_weight=1.0)
    targets = supervision.targets(step)
    matches = supervision.matcher(step.outputs[0], targets.images)
    each = projection_loss(logits[matches.queries].sigmoid(), targets.regions[matches.objects])
    found = supervision.mask_losses(step.outputs[0], matches, targets)["loss_prj"]
    assert found.item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_masks_that_ground_truth_has_are_not_looked_at():
    logits = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    step = box_step([[0, 0, 16, 16]], logits)
    before = settled()(step)
    step.truth[0].gt_masks = fake_instances(32, 32, [[20, 20, 22, 22]]).gt_masks
    after = settled()(step)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_pairs_of_different_color_do_not_count():
    picture = torch.full((3, 32, 32), 90, dtype=torch.uint8)
    picture[:, :, 16:] = 250
    logits = torch.full((1, 8, 8), 4.0)
    logits[..., 4:] = -4.0
    two, one = (settled()(box_step([[0, 0, 32, 32]], logits, p))["loss_pairwise"] for p in (picture, None))
    assert two.item() < 0.1 < one.item()


def test_warm_up_grows_once_a_step_and_goes_on_after_a_resume():
    step = box_step([[0, 0, 32, 32]], torch.zeros(1, 8, 8))
    step = QueryStep(**{**vars(step), "outputs": [*step.outputs, *step.outputs]})
    loss = BoxLoss(warmup_iters=4, bottom_pixels_removed=0, pairwise_weight=1.0)
    values = [loss(step) for _ in range(2)]
    assert [x["loss_pairwise"].item() / math.log(2) for x in values] == pytest.approx([0.25, 0.5])
    assert [x["loss_pairwise_0"].item() / math.log(2) for x in values] == pytest.approx([0.25, 0.5])
    again = BoxLoss(warmup_iters=4, bottom_pixels_removed=0, pairwise_weight=1.0)
    again.load_state_dict(loss.state_dict())
    factors = [again(step)["loss_pairwise"].item() / math.log(2) for _ in range(3)]
    assert factors == pytest.approx([0.75, 1, 1])


def test_without_objects_losses_keep_the_graph():
    logits = torch.zeros(2, 8, 8, requires_grad=True)
    losses = settled()(box_step([], logits))
    assert losses["loss_prj"].item() == losses["loss_pairwise"].item() == 0
    assert losses["loss_class"] > 0
    sum(losses.values()).backward()
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("box", [[-40, -40, 9, 9], [20, 20, 90, 90], [6.6, 3, 7.4, 30]])
def test_odd_boxes_have_finite_losses_and_gradients(box):
    logits = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    step = box_step([[0, 0, 8, 8]], logits)
    step.truth[0].gt_boxes.tensor[0] = torch.tensor(box)
    losses = settled()(step)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0


def redraw(content):
    """Other masks for the same boxes: triangles in place of rectangles."""
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation.update(segmentation=[[x, y, x + w, y, x, y + h]], area=w * h / 2)


def remove(content):
    for annotation in content["annotations"]:
        del annotation["segmentation"]


@pytest.fixture
def trained(tmp_path):
    """Trains on large-scale jitter of a changed copy of the tiny data set; gives all losses and weights."""
    json_file, images = write_tiny_coco(tmp_path / "tiny")
    content = json.loads(json_file.read_text())
    names = []

    def train(change, supervision, *, recipe="mask2former_box", recompute_boxes=False):
        changed = copy.deepcopy(content)
        change(changed)
        names.append(f"{tmp_path.name}_{len(names)}")
        path = json_file.with_name(f"{names[-1]}.json")
        path.write_text(json.dumps(changed))
        register_coco(names[-1], path, images)
        records = get_supervised_dataset_dicts(names[-1], supervision=supervision)
        mapper = InstanceMapper(
            is_train=True,
            augmentations=[T.RandomFlip(), T.ResizeScale(0.5, 2.0, 64, 64), T.FixedSizeCrop((64, 64))],
            image_format="RGB",
            recompute_boxes=recompute_boxes,
            image_box=True,
        )
        torch.manual_seed(0)
        model = instantiate(tiny_mask2former_config(2, recipe=recipe))
        np.random.seed(0)
        return run(
            model,
            build_detection_train_loader(
                dataset=records,
                mapper=mapper,
                sampler=TrainingSampler(len(records), shuffle=False),
                total_batch_size=2,
                aspect_ratio_grouping=False,
                num_workers=0,
            ),
        )

    yield train
    for one in names:
        DatasetCatalog.remove(one)
        MetadataCatalog.remove(one)


def run(model, loader, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    history = []
    for batch in islice(loader, steps):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({key: value.item() for key, value in losses.items()})
    return history, torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("recompute_boxes", [False, True])
def test_no_bit_of_a_mask_reaches_a_loss_or_a_weight(trained, recompute_boxes):
    """With crops, and even with boxes that are recomputed from masks where there are any."""
    runs = [
        trained(change, BoxSupervision(), recompute_boxes=recompute_boxes)
        for change in (lambda content: None, redraw, remove)
    ]
    assert all(losses["loss_prj"] > 0 for losses in runs[0][0])
    assert any(losses["loss_pairwise"] > 0 for losses in runs[0][0])
    for history, weights in runs[1:]:
        assert history == runs[0][0]
        assert torch.equal(weights, runs[0][1])


def test_masks_that_may_be_seen_do_reach_the_loss(trained):
    first, second = (
        trained(change, FullSupervision(), recipe="mask2former")[0] for change in (lambda content: None, redraw)
    )
    assert first[0]["loss_dice"] != second[0]["loss_dice"]
