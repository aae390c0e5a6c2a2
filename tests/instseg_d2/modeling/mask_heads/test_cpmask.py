"""CPMask's head: shapes of the thesis, its losses at known inputs, and that hidden masks count in none of them."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from instseg_d2.layers.contours import mask_contours
from instseg_d2.modeling.mask_heads.cpmask import CPMaskHead
from instseg_d2.modeling.mask_heads.mask_rcnn import MaskRCNNHead
from instseg_d2.testing import TINY_CHANNELS, fake_batch, fake_instances, put_mask_head, tiny_fcos_mask_config

CHANNELS = 8
LOSSES = {"loss_mask", "loss_boundary", "loss_affinity"}
VARIANTS = {
    "CPMask": {},
    "neither": {"boundary": False, "affinity": False},
    "boundary": {"affinity": False},
    "affinity": {"boundary": False},
    "affinity loss off": {"affinity_weight": 0},
    "boundary loss off": {"boundary_weight": 0},
    "literal": {"affinity_form": "literal"},
    "pairs": {"affinity_form": "pairs", "scale": False, "embed_dim": 3},
}


def head(**settings):
    torch.manual_seed(0)
    defaults = {
        "input_shape": ShapeSpec(channels=CHANNELS, width=14, height=14),
        "conv_dim": CHANNELS,
        "num_convs": 2,
        "num_boundary_convs": 1,
    }
    module = CPMaskHead(**{**defaults, **settings})
    for name in ("predictor", "boundary_predictor"):
        if hasattr(module, name):
            torch.nn.init.normal_(getattr(module, name).weight)
    return module


def losses_named(settings):
    off = {"loss_boundary": ("boundary", "boundary_weight"), "loss_affinity": ("affinity", "affinity_weight")}
    return LOSSES - {name for name, keys in off.items() if not all(settings.get(key, True) for key in keys)}


def features(regions=3):
    torch.manual_seed(1)
    return torch.randn(regions, CHANNELS, 14, 14)


def regions():
    """Three regions of two images; the masks are boxes that fill half of theirs, or less."""
    images = [
        fake_instances(64, 64, [[4, 4, 40, 44], [10, 8, 60, 60]], [0, 2]),
        fake_instances(64, 64, [[0, 0, 30, 24]]),
    ]
    for x in images:
        masks = x.gt_masks.tensor.clone()
        masks[:, :, 25:] = False
        x.gt_masks = BitMasks(masks)
        x.proposal_boxes = x.pred_boxes = x.gt_boxes
        x.pred_classes = x.gt_classes
    return images


def losses_of(module, instances, x=None):
    with EventStorage():
        return module(features() if x is None else x, instances)


def test_sizes_of_the_thesis():
    conv, deconv, predictor = 590_080, 262_400, 257
    expected = 8 * conv + 2 * (deconv + predictor) + 3 * 65_536
    module = CPMaskHead(input_shape=ShapeSpec(channels=256))
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


def test_maps_of_14_become_28():
    module = head()
    last, logits = module.layers(features(), regions())
    assert last.shape == (3, CHANNELS, 28, 28)
    assert {name: tuple(maps.shape) for name, maps in logits.items()} == {
        "masks": (3, 1, 28, 28),
        "boundaries": (3, 1, 28, 28),
        "affinities": (3, 1, 196, 196),
    }
    assert set(module.eval().layers(features(), regions())[1]) == {"masks"}


def test_steps_of_the_thesis():
    """C = G(X + F_B(X)), the mask from C + A g(C), the boundary from F_B(X)."""
    module, x = head(), features()
    _, logits = module.layers(x, regions())
    boundary = module.boundary_convs(x)
    c = module.convs(x + boundary)
    mixed, affinities = module.affinity(c)
    assert torch.equal(logits["affinities"][:, 0], affinities)
    upsampled = F.conv_transpose2d(mixed, module.upsampling.weight, module.upsampling.bias, stride=2).relu()
    assert torch.equal(logits["masks"], module.predictor(upsampled))
    assert torch.equal(logits["boundaries"], module.boundary_predictor(module.boundary_upsampling(boundary)))


def test_without_both_modules_it_is_the_head_of_mask_rcnn():
    shape = ShapeSpec(channels=CHANNELS, width=14, height=14)
    plain = MaskRCNNHead(input_shape=shape, num_classes=1, conv_dims=[CHANNELS] * 3)
    module = head(boundary=False, affinity=False)
    plain.load_state_dict(dict(zip(plain.state_dict(), module.state_dict().values(), strict=True)))
    assert torch.equal(plain.layers(features(), [])[1], module.layers(features(), [])[1]["masks"])
    found, expected = losses_of(module, regions()), losses_of(plain, regions())
    assert found.keys() == expected.keys()
    assert torch.equal(found["loss_mask"], expected["loss_mask"])


def test_losses_are_those_of_the_definition():
    weights = {"loss_weight": 2.0, "boundary_weight": 3.0, "affinity_weight": 0.5}
    module, instances = head(**weights), regions()
    losses = losses_of(module, instances)
    _, logits = module.layers(features(), instances)
    cut = {
        size: torch.cat([x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, size) for x in instances]).float()
        for size in (14, 28)
    }
    rows = logits["affinities"][:, 0].softmax(-1)
    mass = []
    for row, inside in zip(rows, cut[14].flatten(1) > 0, strict=True):
        assert 0 < inside.sum() < 196
        mass.append(2 * row[inside][:, ~inside].sum(1).mean())
    bce = F.binary_cross_entropy_with_logits
    expected = {
        "loss_mask": 2 * bce(logits["masks"][:, 0], cut[28]),
        "loss_boundary": 3 * bce(logits["boundaries"][:, 0], mask_contours(cut[28])),
        "loss_affinity": 0.5 * torch.stack(mass).mean(),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_trains_every_parameter_whatever_it_is_given(settings):
    hidden = regions()
    for x in hidden:
        x.gt_has_mask = torch.zeros(len(x), dtype=torch.bool)
    for instances, x, learns in (
        (regions(), features(), True),
        (hidden, features(), False),
        ([part[:0] for part in regions()], features(0), False),
    ):
        module = head(**settings)
        losses = losses_of(module, instances, x)
        assert set(losses) == losses_named(settings) == set(module.loss_names)
        assert all((value > 0) == learns for value in losses.values())
        sum(losses.values()).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert learns or not parameter.grad.any(), name


def test_hidden_masks_count_in_no_loss():
    module, instances = head(), regions()
    instances[0].gt_has_mask, instances[1].gt_has_mask = torch.tensor([False, True]), torch.tensor([False])
    found = losses_of(module, instances)
    alone = losses_of(module, [regions()[0][1:], regions()[1][:0]], features()[1:2])
    for name in LOSSES:
        assert found[name].item() == pytest.approx(alone[name].item(), rel=1e-5), name
    for x in instances:  # other masks where they may not be seen
        masks = x.gt_masks.tensor.clone()
        masks[~x.gt_has_mask] = ~masks[~x.gt_has_mask]
        x.gt_masks = BitMasks(masks)
    changed = losses_of(module, instances)
    assert all(torch.equal(found[name], changed[name]) for name in LOSSES)


def test_objects_that_fill_their_region_have_no_affinity_to_learn():
    losses = losses_of(head(), [fill(x) for x in regions()])
    assert losses["loss_affinity"] == 0
    assert losses["loss_mask"] > 0
    sum(losses.values()).backward()


def fill(x):
    x.gt_masks = BitMasks(torch.ones_like(x.gt_masks.tensor))
    return x


def test_class_specific_masks():
    module, instances = head(num_classes=3), regions()
    losses = losses_of(module, instances)
    _, logits = module.layers(features(), instances)
    own = logits["masks"][torch.arange(3), torch.tensor([0, 2, 0])]
    cut = torch.cat([x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, 28) for x in instances]).float()
    expected = F.binary_cross_entropy_with_logits(own, cut)
    assert losses["loss_mask"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(losses) == LOSSES


def test_inference_shows_boundaries_and_affinities_when_asked():
    plain, showing = head().eval(), head(keep_aux=True).eval()
    for before, after in zip(plain(features(), regions()), showing(features(), regions()), strict=True):
        assert torch.equal(before.pred_masks, after.pred_masks)
        assert not before.has("pred_boundaries")
        assert not before.has("pred_pixel_affinities")
        assert after.pred_boundaries.shape == (len(after), 1, 28, 28)
        assert ((after.pred_boundaries > 0) & (after.pred_boundaries < 1)).all()
        assert after.pred_pixel_affinities.shape == (len(after), 14, 14, 14, 14)
        assert torch.allclose(after.pred_pixel_affinities.sum((3, 4)), torch.ones(len(after), 14, 14), atol=1e-5)
    _, logits = showing.layers(features(), regions())
    row = logits["affinities"][1, 0, 3 * 14 + 5].softmax(0).reshape(14, 14)
    assert torch.allclose(showing(features(), regions())[0].pred_pixel_affinities[1, 3, 5], row)


def test_inference_without_regions():
    (nothing,) = head(keep_aux=True).eval()(features(0), [regions()[0][:0]])
    assert nothing.pred_masks.shape == (0, 1, 28, 28)
    assert nothing.pred_pixel_affinities.shape == (0, 14, 14, 14, 14)


def test_under_autocast_losses_are_finite_and_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(head(), regions())
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"conv_dim": 4}, "adds 4 channels .* to 8 of the input"),
        ({"affinity_form": "columns"}, "affinity_form='columns': must be one of"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        head(**wrong)


def losses_with(masks_of_hidden):
    """Losses of a tiny FCOS with CPMask whose second instance of each image is hidden."""
    torch.manual_seed(0)
    node = L(CPMaskHead)(
        input_shape=L(ShapeSpec)(channels=TINY_CHANNELS, width=14, height=14),
        conv_dim=TINY_CHANNELS,
        num_convs=1,
        num_boundary_convs=1,
    )
    model = instantiate(put_mask_head(tiny_fcos_mask_config(), node))
    batch = fake_batch()
    for x in (item["instances"] for item in batch):
        x.gt_has_mask = torch.tensor([True, False])
        x.gt_masks.tensor[0, 24:] = False  # not all of its box, which would leave nothing to tell apart
        x.gt_masks.tensor[1] = masks_of_hidden
    with EventStorage():
        return {name: value.item() for name, value in model(batch).items()}


def test_no_loss_of_the_whole_model_depends_on_a_hidden_mask():
    before, after = losses_with(True), losses_with(False)
    assert before == after
    assert before.keys() > LOSSES
    assert all(before[name] > 0 for name in LOSSES)
