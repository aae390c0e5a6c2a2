"""The whole PEP: losses of every switch, odd images, inference, given boxes, several processes, and learning."""

from functools import partial

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from instseg_d2.layers.mask_losses import dice_losses, mask_bce
from instseg_d2.modeling.meta_arch.pep.masks import LevelFeatures, mask_logits
from instseg_d2.modeling.meta_arch.pep.model import LITERAL
from instseg_d2.modeling.meta_arch.pep.targets import prepare_truth
from instseg_d2.testing import fake_batch, fake_instances, tiny_pep, tiny_pep_config, train_on_ranks

LOSSES = {"loss_perceive", "loss_excavate", "loss_excavate_class", "loss_purify", "loss_mask"}
TOUCHING = [[8, 16, 32, 44], [32, 16, 56, 44], [60, 4, 92, 24]]


def build(*, literal=False, **options):
    torch.manual_seed(0)
    model = tiny_pep_config()
    for key, value in options.items():
        if isinstance(value, dict):
            model[key].update(value)
        else:
            model[key] = value
    if literal:
        model.merge_with(LITERAL)
        model.mask_branch = L(LevelFeatures)(
            input_shape=model.head.input_shape, conv_dims=[16], norm="", shared_levels=False
        )
        model.mask_in_features = model.head_in_features
        model.head.shared_levels = False
    return instantiate(model)


def losses_of(model, batch):
    with EventStorage():
        return model(batch)


def batch_of(*images):
    return [{**item, "instances": truth} for item, truth in zip(fake_batch(len(images)), images, strict=True)]


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({}, set()),
        ({"literal": True}, set()),
        ({"excavating": None}, {"loss_excavate", "loss_excavate_class"}),
        ({"purifying": None}, {"loss_purify"}),
        ({"excavating": None, "purifying": None, "bce_weight": 1.0}, LOSSES - {"loss_perceive", "loss_mask"}),
    ],
    ids=["all", "literal", "without excavating", "without purifying", "baseline"],
)
def test_every_loss_is_finite_and_reaches_every_parameter(options, missing):
    model = build(**options)
    for batch in (fake_batch(), batch_of(fake_instances(64, 96, []), fake_instances(64, 96, []))):
        losses = losses_of(model, batch)
        assert set(losses) == LOSSES - missing
        assert all(value.isfinite() for value in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert losses["loss_mask"] == 0


def test_each_loss_has_a_gradient_of_its_own():
    model = build()
    losses = losses_of(model, fake_batch())
    parts = {
        "loss_perceive": model.head.stages[0].category_pred,
        "loss_excavate": model.excavating.keys.logits,
        "loss_excavate_class": model.excavating.classes,
        "loss_purify": model.purifying.embedding[0],
        "loss_mask": model.mask_branch.output,
    }
    for name, part in parts.items():
        (gradient,) = torch.autograd.grad(losses[name], part.weight, retain_graph=True)
        assert gradient.abs().sum() > 0, name


def test_mask_loss_is_the_mean_over_originals_and_mined():
    model = build(dice_weight=2.0, bce_weight=0.5, mask_weight=3.0)
    truth = prepare_truth(fake_instances(64, 96, TOUCHING))
    maps = torch.randn(1, 16, 16, 24)
    nodes = Instances(
        (64, 96), descriptors=torch.randn(4, 16), fpn_levels=torch.zeros(4).long(), gt_inds=torch.tensor([0, 0, 2, 1])
    )
    loss = model.mask_losses([maps], [nodes], [truth], (64, 96))["loss_mask"]
    targets = truth.gt_masks.tensor[nodes.gt_inds, 2::4, 2::4].float()  # boxes lie on the cells of 4 px
    logits = mask_logits([maps], 0, nodes)
    expected = 2 * dice_losses(logits, targets, epsilon=0.002).mean() + 0.5 * mask_bce(logits, targets)
    assert torch.allclose(loss, 3 * expected, rtol=1e-5)


def test_two_originals_an_object_and_a_limit():
    model = build(train_originals=5)
    counts = []
    for boxes in (TOUCHING[:1], TOUCHING):
        truth = [prepare_truth(fake_instances(64, 96, boxes))]
        with torch.no_grad():
            perceived, _ = model.predict(model.backbone(torch.randn(1, 3, 64, 96)))
            (drawn,) = model.draw_originals(perceived, [model.assigner(truth[0], perceived.grid)], truth)
        counts.append(drawn.gt_inds.unique(return_counts=True)[1].tolist())
        windows = model.excavating.windows(truth[0].gt_boxes[drawn.gt_inds])
        assert torch.equal(drawn.windows.tensor, windows.tensor)
    assert counts[0] == [2]
    assert sorted(counts[1]) == [1, 2, 2]


def test_hidden_and_empty_masks_train_no_mask():
    model = build()
    truth = fake_instances(64, 96, TOUCHING)
    truth.gt_has_mask = torch.tensor([False, False, True])
    maps = torch.randn(1, 16, 16, 24)
    nodes = Instances(
        (64, 96), descriptors=torch.randn(3, 16), fpn_levels=torch.zeros(3).long(), gt_inds=torch.arange(3)
    )
    loss = model.mask_losses([maps], [nodes], [prepare_truth(truth)], (64, 96))["loss_mask"]
    alone = model.mask_losses([maps], [nodes[2:]], [prepare_truth(fake_instances(64, 96, TOUCHING))], (64, 96))
    assert torch.allclose(loss, alone["loss_mask"])
    truth.gt_masks.tensor[2] = False
    assert model.mask_losses([maps], [nodes], [prepare_truth(truth)], (64, 96))["loss_mask"] == 0
    # What lies under a hidden mask changes nothing at all.
    truth.gt_has_mask[:] = False
    values = []
    for fill in (False, True):
        truth.gt_masks.tensor[:] = fill
        torch.manual_seed(0)
        values.append(losses_of(build(), batch_of(truth)))
    assert all(torch.equal(values[0][name], values[1][name]) for name in LOSSES)


def test_polygons_and_masks_give_the_same_losses():
    values = []
    for polygons in (False, True):
        truth = fake_instances(64, 96, TOUCHING)
        if polygons:
            truth.gt_masks = PolygonMasks([[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in TOUCHING])
        torch.manual_seed(0)
        values.append(losses_of(build(), batch_of(truth)))
    assert all(torch.allclose(values[0][name], values[1][name]) for name in LOSSES)


def test_three_hundred_objects_and_objects_below_a_cell():
    rng = torch.Generator().manual_seed(0)
    corners = (torch.rand(300, 2, generator=rng) * torch.tensor([92.0, 60.0])).floor()
    sizes = torch.randint(1, 4, (300, 1), generator=rng)
    crowd = fake_instances(64, 96, torch.cat([corners, corners + sizes], dim=1).tolist())
    model = build()
    losses = losses_of(model, batch_of(crowd, fake_instances(64, 96, [[40, 40, 41, 41]])))
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_mask"] > 0
    sum(losses.values()).backward()


def test_autocast_keeps_losses_in_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(build(), fake_batch())
        found = build(keep_aux=True).eval()(fake_batch())
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert found[0]["mining"].similarity.dtype == torch.float32


EAGER = {
    "head": {"score_threshold": 0.001, "max_originals": 12},
    "excavating": {"key_threshold": 0.001},
    "decoder": {"nms_score_thresh": 0.0},
}


@pytest.mark.parametrize("literal", [False, True])
def test_inference_gives_what_detectron2_expects(literal):
    model = build(literal=literal, keep_aux=True, max_nodes=20, min_mask_areas=[-1] * 4, **EAGER).eval()
    batch = [{**item, "height": 128, "width": 150} for item in fake_batch()]
    for output in model(batch):
        found, mining = output["instances"], output["mining"]
        assert found.image_size == (128, 150)
        assert found.pred_masks.shape[1:] == (128, 150)
        assert found.pred_masks.dtype == torch.bool
        tight = BitMasks(found.pred_masks).get_bounding_boxes().tensor
        assert torch.equal(found.pred_boxes.tensor, tight)
        assert len(mining.originals) <= 12
        assert len(mining.nodes) <= 20
        assert (mining.nodes.sources >= 0).any()
        assert mining.key_maps.shape == (len(mining.originals), 8, 8)
        assert mining.similarity.shape == (len(mining.nodes),) * 2
        assert mining.groups.unique().numel() == len(mining.merged)
        assert (mining.nodes.scores.diff() <= 0).all()
    instances = model.inference(batch, do_postprocess=False)
    assert instances[0].image_size == (64, 96)
    assert instances[0].pred_masks.shape[1:] == (16, 24)


@pytest.mark.parametrize("parts", [("excavating",), ("purifying",), ("excavating", "purifying")])
def test_inference_without_parts(parts):
    model = build(keep_aux=True, head=EAGER["head"], **dict.fromkeys(parts)).eval()
    mining = model(fake_batch(1))[0]["mining"]
    assert (mining.key_maps is None) == ("excavating" in parts)
    assert (mining.similarity is None) == ("purifying" in parts)
    if "purifying" in parts:
        assert len(mining.merged) == len(mining.nodes)


def test_image_where_nothing_is_found():
    model = build(head={"score_threshold": 0.999}, keep_aux=True).eval()
    (output,) = model(fake_batch(1))
    assert len(output["instances"]) == 0
    assert output["instances"].pred_masks.shape == (0, 64, 96)
    assert len(output["mining"].groups) == 0


def test_given_boxes_keep_number_order_and_place():
    model = build().eval()
    given = [
        Instances((64, 96), pred_boxes=Boxes(torch.tensor(boxes)), pred_classes=torch.arange(len(boxes)))
        for boxes in (TOUCHING, [[10.0, 20, 11, 21]])
    ]
    outputs = model.inference(fake_batch(), detected_instances=given)
    assert [len(output["instances"]) for output in outputs] == [3, 1]
    assert outputs[0]["instances"].pred_boxes.tensor.tolist() == [list(map(float, box)) for box in TOUCHING]
    assert outputs[1]["instances"].pred_masks.shape == (1, 64, 96)


def test_contradictions():
    with pytest.raises(ValueError, match="learn from nothing"):
        build(dice_weight=0.0)
    with pytest.raises(ValueError, match="3 min_mask_areas for 4 levels"):
        build(min_mask_areas=[1, 2, 3])


@pytest.mark.slow
def test_processes_agree_although_one_has_no_objects(tmp_path):
    empty = batch_of(fake_instances(64, 96, []), fake_instances(64, 96, []))
    (first, losses), (second, other) = train_on_ranks(partial(tiny_pep), [fake_batch(), empty], tmp_path)
    assert torch.equal(first, second)
    assert set(losses) == set(other) == LOSSES


@pytest.mark.slow
def test_learns_two_objects_and_finds_them_again():
    model, batch = build(keep_aux=True), fake_batch(1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(120):
        losses = losses_of(model, batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    (output,) = model.eval()(batch)
    found, truth = output["instances"], batch[0]["instances"]
    found = found[found.scores > 0.5]
    assert sorted(found.pred_classes.unique().tolist()) == [0, 1]
    for cls in (0, 1):
        mask = found.pred_masks[(found.pred_classes == cls).nonzero()[0, 0]]
        true = truth.gt_masks.tensor[cls]
        assert (mask & true).sum() / (mask | true).sum() > 0.8
    assert len(output["mining"].merged) < len(output["mining"].nodes)
