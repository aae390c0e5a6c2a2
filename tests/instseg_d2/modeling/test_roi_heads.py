"""OPMask's prior: which map reaches which mask, in batches too, and where its gradient goes."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from instseg_d2.model_zoo import get_config
from instseg_d2.modeling.roi_heads import CAMROIHeads
from instseg_d2.testing import TINY_CHANNELS, fake_batch, tiny_mask_rcnn_config, without_objects

CLASSES = 3


def opmask_config():
    model = tiny_mask_rcnn_config(CLASSES)
    model.roi_heads.update(_target_=CAMROIHeads, keep_aux=False)
    model.roi_heads.box_head.update(conv_dims=[24, 32], fc_dims=[], conv_norm="naiveSyncBN_N")
    model.roi_heads.mask_head.update(num_classes=1, conv_dims=[16, 16, 16], conv_norm="naiveSyncBN_N")
    return model


def build():
    torch.manual_seed(0)
    model = instantiate(opmask_config())
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)
    return model


def maps_of(heads, features, boxes):
    return heads.box_head(heads.box_pooler([features[name] for name in heads.box_in_features], boxes))


def priors(heads, maps, classes):
    """All channels by a convolution, as OPMask's authors do, then the one of the class."""
    cams = F.conv2d(maps, heads.box_predictor.cls_score.weight[:, :, None, None])[torch.arange(len(maps)), classes]
    low, high = cams.amin(dim=(1, 2), keepdim=True), cams.amax(dim=(1, 2), keepdim=True)
    return F.interpolate(((cams - low) / (high - low))[:, None], scale_factor=2, mode="bilinear")


@pytest.fixture
def scene():
    """Heads in inference, features of three images, proposals of different numbers."""
    heads = build().eval().roi_heads
    heads.keep_aux = True
    heads.box_predictor.test_score_thresh = 0.0
    heads.box_predictor.test_topk_per_image = 6
    torch.manual_seed(1)
    features = {f"p{level}": torch.randn(3, TINY_CHANNELS, 256 >> level, 256 >> level) for level in (2, 3, 4, 5)}
    proposals = []
    for count in (3, 7, 5):
        corners = 120 * torch.rand(count, 2)
        boxes = torch.cat([corners, corners + 20 + 60 * torch.rand(count, 2)], dim=1)
        proposals.append(Instances((256, 256), proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(count)))
    return heads, features, proposals


def test_each_detection_has_the_map_of_its_proposal(scene):
    heads, features, proposals = scene
    with torch.no_grad():
        detections, _ = heads(None, features, proposals)
        maps = maps_of(heads, features, [x.proposal_boxes for x in proposals])
        _, kept = heads.box_predictor.inference(heads.box_predictor(maps.mean(dim=(2, 3))), proposals)
        parts = maps.split([len(x) for x in proposals])
        for x, part, rows in zip(detections, parts, kept, strict=True):
            assert len(x) == 6
            expected = priors(heads, part[rows], x.pred_classes)
            torch.testing.assert_close(x.pred_class_activation, expected, atol=1e-5, rtol=0)
            assert set(x.get_fields()) == {
                "pred_boxes",
                "scores",
                "pred_classes",
                "pred_masks",
                "pred_class_activation",
            }


def test_a_batch_gives_what_its_images_give_alone(scene):
    heads, features, proposals = scene
    with torch.no_grad():
        together, _ = heads(None, features, proposals)
        for index, x in enumerate(together):
            alone, _ = heads(None, {n: f[index : index + 1] for n, f in features.items()}, proposals[index : index + 1])
            for name in ("pred_masks", "pred_class_activation"):
                torch.testing.assert_close(alone[0].get(name), x.get(name), atol=1e-5, rtol=0)


def test_given_boxes_have_their_own_map_and_images_without_any_none(scene):
    heads, features, _ = scene
    boxes = [torch.tensor([[8.0, 8.0, 90.0, 70.0], [30.0, 20.0, 60.0, 99.0]]), torch.zeros(0, 4), torch.zeros(0, 4)]
    given = [
        Instances((256, 256), pred_boxes=Boxes(x), pred_classes=torch.arange(len(x)), scores=torch.ones(len(x)))
        for x in boxes
    ]
    with torch.no_grad():
        result = heads.forward_with_given_boxes(features, given)
        expected = priors(heads, maps_of(heads, features, [Boxes(x) for x in boxes]), torch.arange(2))
    torch.testing.assert_close(result[0].pred_class_activation, expected, atol=1e-5, rtol=0)
    assert [len(x.pred_masks) for x in result] == [2, 0, 0]


def test_the_mask_loss_reaches_the_convolutions_but_not_the_classifier():
    model = build()
    model.roi_heads.mask_pooler.register_forward_hook(lambda _m, _i, pooled: pooled.detach())
    with EventStorage():
        model(fake_batch(num_classes=CLASSES))["loss_mask"].backward()
    heads = model.roi_heads
    assert heads.box_head.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in heads.box_predictor.parameters())
    assert heads.mask_head.predictor.weight.grad.abs().sum() > 0


def test_training_adds_the_map_of_the_true_class():
    model = build()
    seen = {}
    model.roi_heads.mask_pooler.register_forward_hook(lambda _m, _i, pooled: seen.update(pooled=pooled))
    model.roi_heads.box_head.register_forward_hook(lambda _m, _i, maps: seen.update(maps=maps))
    model.roi_heads.mask_head.register_forward_pre_hook(lambda _m, inputs: seen.update(x=inputs[0], regions=inputs[1]))
    with EventStorage():
        model(fake_batch(num_classes=CLASSES))
    prior = seen["x"] - seen["pooled"]
    classes = torch.cat([x.gt_classes for x in seen["regions"]])
    assert len(classes) == len(prior) > 0
    assert torch.allclose(prior, prior[:, :1].expand_as(prior), atol=1e-5)
    assert prior.min() >= -1e-5
    assert prior.max() <= 1 + 1e-5
    # Of all regions of the box head those with this prior are foreground, in order.
    everything = torch.stack([priors(model.roi_heads, seen["maps"], torch.full((len(seen["maps"]),), c))
                              for c in range(CLASSES)])  # fmt: skip
    distance = (everything[classes] - prior[:, None, :1]).abs().amax(dim=(2, 3, 4))
    assert distance.min(dim=1).values.max() < 1e-4
    assert not any(x.has("class_activation") for x in seen["regions"])


@pytest.mark.parametrize("boxes_of", ["proposals", "predicted"])
@pytest.mark.parametrize("objects", [True, False])
def test_trains(objects, boxes_of):
    model = build()
    model.roi_heads.train_on_pred_boxes = boxes_of == "predicted"
    batch = fake_batch(num_classes=CLASSES)
    with EventStorage():
        losses = model(batch if objects else without_objects(batch))
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (losses["loss_mask"] > 0) == objects


def test_sizes_of_the_release():
    with torch.device("meta"):
        heads = instantiate(get_config("TeacherStudent/opmask_r50_fpn_coco_voc_1x").model).roi_heads
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in heads.named_children()}
    widths = [256, 512, 1024, 1024, 1024]
    box = sum(9 * a * b + 2 * b for a, b in zip(widths, widths[1:], strict=False))
    assert count["box_head"] == box
    assert count["box_predictor"] == 1025 * (81 + 320)
    assert count["mask_head"] == 7 * (9 * 256 * 256 + 512) + (4 * 256 * 256 + 256) + 257


def test_a_head_that_pools_for_itself_is_refused():
    config = opmask_config()
    config.roi_heads.mask_pooler = None
    with pytest.raises(Exception, match="mask_pooler"):
        instantiate(config)
