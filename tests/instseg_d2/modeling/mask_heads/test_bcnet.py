"""BCNet's head: sizes of every variant, losses against their definitions, and what happens without occluders."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from instseg_d2.layers.contours import mask_contours
from instseg_d2.modeling.mask_heads.bcnet import PAPER, RELEASED, BCNetHead, occluder_weights
from instseg_d2.testing import fake_instances

GRAPH_3, GRAPH_4 = PAPER["graph"], RELEASED["graph"]
LOSSES = {"loss_mask", "loss_contour", "loss_occluder", "loss_occluder_contour"}


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"bilayer": False, "graph": None, "contour_weight": 0}, 2_622_977),
        ({"bilayer": False, "graph": None, "contour_weight": 0, "num_classes": 80}, 2_643_280),
        ({"bilayer": False, "graph": GRAPH_4, "contour_weight": 0}, 2_885_633),
        ({"bilayer": False, "graph": GRAPH_4, "deconvs": "output"}, 3_148_290),
        ({"graph": None, "deconvs": "shared"}, 4_984_068),
        ({"graph": None, "deconvs": "layer"}, 5_246_468),
        ({"graph": None, "deconvs": "output"}, 5_771_268),
        ({"graph": GRAPH_3, "deconvs": "layer"}, 5_640_708),
        ({"graph": GRAPH_4, "deconvs": "layer"}, 5_771_780),
        (RELEASED, 6_296_580),
        (PAPER, 5_640_708),
        ({"graph": GRAPH_3, "num_convs": 2}, 3_280_388),
    ],
)
def test_parameter_counts(settings, parameters):
    with torch.device("meta"):
        head = BCNetHead(input_shape=ShapeSpec(channels=256), **settings)
    assert sum(parameter.numel() for parameter in head.parameters()) == parameters


def head(**settings):
    torch.manual_seed(0)
    made = BCNetHead(input_shape=ShapeSpec(channels=8), conv_dim=8, **settings)
    for predictor in made.predictors.values():  # off the small initial weights, which would hide differences
        torch.nn.init.normal_(predictor.weight)
    return made


def regions(occluded=(True, False, True)):
    """Three regions of two images; an occluder is a strip within its box."""
    images = [
        fake_instances(32, 32, [[4, 4, 20, 24], [10, 8, 30, 30]], [0, 2]),
        fake_instances(32, 32, [[0, 0, 16, 12]]),
    ]
    flags = iter(occluded)
    for x in images:
        x.proposal_boxes = x.gt_boxes.clone()
        strips = torch.zeros(len(x), 32, 32, dtype=torch.bool)
        for strip, box in zip(strips, x.gt_boxes.tensor.long().tolist(), strict=True):
            if next(flags):
                strip[box[1] : box[1] + 6, box[0] : box[2]] = True
        x.gt_occluders = BitMasks(strips)
    return images


def losses_of(module, instances, x=None):
    x = torch.randn(sum(map(len, instances)), 8, 14, 14, generator=torch.Generator().manual_seed(1)) if x is None else x
    with EventStorage():
        return module(x, instances)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_losses_are_those_of_the_definition(num_classes):
    module = head(num_classes=num_classes, occluder_sampling="first", **{k: PAPER[k] for k in ("graph", "deconvs")})
    instances = regions((True, False, False))
    x = torch.randn(3, 8, 14, 14)
    losses = losses_of(module, instances, x)
    _, logits = module.layers(x, instances)
    channel = torch.tensor([0, 2, 0]) if num_classes == 3 else torch.zeros(3, dtype=torch.int64)
    own = {name: maps[torch.arange(3), channel] for name, maps in logits.items()}
    masks, occluders = (
        torch.cat([x.get(field).crop_and_resize(x.proposal_boxes.tensor, 28) for x in instances]).float()
        for field in ("gt_masks", "gt_occluders")
    )
    bce = F.binary_cross_entropy_with_logits
    # One occluded region, the first: it counts for itself and as the first of the list.
    expected = {
        "loss_mask": bce(own["masks"], masks),
        "loss_contour": bce(own["contours"], mask_contours(masks)),
        "loss_occluder": 0.25 * bce(own["occluder_masks"][0], occluders[0]),
        "loss_occluder_contour": bce(own["occluder_contours"][0], mask_contours(occluders)[0]),
    }
    assert set(losses) == LOSSES
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_balanced_sampling_takes_as_many_free_regions_as_occluded_ones():
    occluded = torch.tensor([False] * 20 + [True] * 5)
    chosen = [occluder_weights(occluded, "balanced") for _ in range(20)]
    for weights in chosen:
        assert weights[20:].eq(1).all()
        assert weights[:20].sum() == 5
    assert len({tuple(weights.tolist()) for weights in chosen}) > 1
    assert occluder_weights(~occluded, "balanced").sum() == 25  # 20 occluded, only 5 others


def test_first_sampling_counts_occluded_regions_at_the_front_twice():
    occluded = torch.tensor([False, True, False, True, False])
    assert occluder_weights(occluded, "first").tolist() == [1, 2, 0, 1, 0]
    assert occluder_weights(occluded, "all").tolist() == [1] * 5


@pytest.mark.parametrize("settings", [PAPER, RELEASED], ids=["paper", "released"])
def test_without_any_occluder_the_losses_are_zero_and_keep_the_graph(settings):
    module = head(**settings)
    losses = losses_of(module, regions((False, False, False)))
    assert losses["loss_occluder"] == losses["loss_occluder_contour"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("settings", [PAPER, RELEASED], ids=["paper", "released"])
def test_no_region_gives_the_same_keys_and_a_gradient_for_every_parameter(settings):
    module = head(**settings)
    losses = losses_of(module, [x[:0] for x in regions()])
    assert set(losses) == LOSSES
    assert sum(losses.values()) == 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_hidden_masks_count_in_no_loss():
    module, x = head(occluder_sampling="all"), torch.randn(3, 8, 14, 14)
    instances = regions()
    instances[0].gt_has_mask, instances[1].gt_has_mask = torch.tensor([True, False]), torch.tensor([False])
    losses = losses_of(module, instances, x)
    alone = losses_of(module, [regions()[0][:1]], x[:1])
    for name in LOSSES:
        assert losses[name].item() == pytest.approx(alone[name].item(), rel=1e-5), name


def test_the_occluder_guides_the_occludee():
    guided, free = head(), head(guidance=False)
    free.load_state_dict(guided.state_dict())
    x = torch.randn(2, 8, 14, 14)
    guided.eval(), free.eval()
    _, with_guidance = guided.layers(x, [])
    torch.nn.init.zeros_(guided.occluder.conv4.weight)
    _, changed = guided.layers(x, [])
    _, without = free.layers(x, [])
    assert not torch.allclose(with_guidance["masks"], changed["masks"])
    assert torch.allclose(changed["masks"], without["masks"], atol=1e-6)  # the layer then adds nothing


def test_inference_gives_auxiliary_maps_only_when_asked():
    instances = regions()
    for x in instances:
        x.pred_boxes, x.pred_classes = x.gt_boxes, x.gt_classes
    x = torch.randn(3, 8, 14, 14)
    plain, full = head().eval(), head(keep_aux=True).eval()
    masks = [i.pred_masks.clone() for i in plain(x, instances)]
    assert not instances[0].has("pred_occluder_masks")
    for given, result in zip(masks, full(x, instances), strict=True):
        assert torch.equal(given, result.pred_masks)
        for field in ("pred_masks", "pred_contours", "pred_occluder_masks", "pred_occluder_contours"):
            maps = result.get(field)
            assert maps.shape == (len(result), 1, 28, 28)
            assert (maps >= 0).all()
            assert (maps <= 1).all()


def test_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(head(**RELEASED), regions())
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"deconvs": "none"}, "must be one of"),
        ({"occluder_sampling": "half"}, "must be one of"),
        ({"conv_dim": 4}, "make them equal"),
        ({"graph_after": 5}, "graph_after=5"),
        ({"loss_weight": 0}, "leaves the masks out"),
        ({"guidance": False, "occluder_weight": 0, "occluder_contour_weight": 0}, "bilayer=False"),
    ],
)
def test_settings_that_contradict_each_other(wrong, message):
    with pytest.raises(ValueError, match=message):
        BCNetHead(input_shape=ShapeSpec(channels=8), **{"conv_dim": 8, **wrong})
