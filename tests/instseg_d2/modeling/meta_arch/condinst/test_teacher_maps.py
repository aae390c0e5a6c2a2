"""What `keep_aux` shows of CondInst's teacher, and that it changes no prediction."""

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from instseg_d2.engine.auxiliary_maps import keep_auxiliary_maps
from instseg_d2.layers.mean_field import DenseCRF
from instseg_d2.testing import add_tiny_student, fake_batch, tiny_condinst_config
from instseg_d2.visualization.panels import PANELS, with_further_maps
from instseg_d2.visualization.strips import draw_strips

CLASSES = 3
MAPS = ["pred_teacher_masks", "pred_pseudo_masks"]


def build(*, rules=None, **settings):
    """A model whose detections have boxes of two strides to each side."""
    config = tiny_condinst_config(CLASSES)
    add_tiny_student(config, **(rules or {}))
    config.update(**settings)
    torch.manual_seed(0)
    model = instantiate(config).eval()
    for controller in (model.detector.head.extra.teacher, model.detector.head.extra.student):
        torch.nn.init.normal_(controller.weight, std=0.3)
    model.detector.test_score_thresh = 0.0
    torch.nn.init.constant_(model.detector.head.bbox_pred.bias, 2.0)
    return model


def predict(model, images=2, **options):
    batch = [{"image": item["image"], "height": 128, "width": 192} for item in fake_batch(images)]
    with torch.no_grad():
        return [x["instances"] for x in model.inference(batch, **options)]


def test_predictions_stay_and_maps_come():
    plain, kept = predict(build()), predict(build(keep_aux=True))
    assert sum(map(len, plain)) > 0
    for one, other in zip(plain, kept, strict=True):
        assert set(other.get_fields()) - set(one.get_fields()) == set(MAPS)
        assert torch.equal(one.pred_masks, other.pred_masks)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        teacher, pseudo = (other.get(name) for name in MAPS)
        assert teacher.shape == pseudo.shape == (len(other), 1, 28, 28)
        assert 0 <= teacher.min() < teacher.max() <= 1
        assert set(pseudo.unique().tolist()) <= {0.0, 1.0}
    with torch.no_grad():
        assert len(predict(build(keep_aux=True), detected_instances=[_no_boxes()] * 2)[0].pred_teacher_masks) == 0


def _no_boxes():
    return Instances((64, 96), pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=torch.zeros(0, dtype=torch.int64))


def test_maps_are_those_of_the_teacher_in_the_box():
    """A teacher whose last layer says 4 left of an image's column 32, -4 right of it."""
    model = build(keep_aux=True, rules={"method": "threshold"})

    def half(features, instances, stride):
        maps = features.new_full((sum(map(len, instances)), 32, 48), -4.0)
        maps[:, :, :16] = 4.0
        return maps

    model.teacher_head.forward = half
    # Half of the first box lies left of the column, a quarter of what is left of the second one in the image.
    boxes = Boxes(torch.tensor([[18.0, 10.0, 46.0, 38.0], [25.0, -30.0, 53.0, 26.0]]))
    given = Instances((64, 96), pred_boxes=boxes, pred_classes=torch.tensor([0, 2]))
    (found,) = predict(model, images=1, detected_instances=[given])
    share = torch.sigmoid(torch.tensor(4.0))
    for row, columns in enumerate((14, 7)):
        teacher = found.pred_teacher_masks[row, 0]
        # Two columns on each side of the edge are interpolated.
        torch.testing.assert_close(teacher[:, : columns - 2], share.expand(28, columns - 2))
        torch.testing.assert_close(teacher[:, columns + 2 :], 1 - share.expand(28, 26 - columns))
        expected = torch.zeros(28, 28)
        expected[:, :columns] = 1
        assert torch.equal(found.pred_pseudo_masks[row, 0], expected)


def test_boxes_are_cut_before_maps_are_taken():
    """A teacher of the upper half of the image, a box of which three quarters lie above the image."""
    model = build(keep_aux=True, rules={"method": "threshold"})

    def half(features, instances, stride):
        maps = features.new_full((sum(map(len, instances)), 32, 48), -4.0)
        maps[:, :16] = 4.0
        return maps

    model.teacher_head.forward = half
    given = Instances(
        (64, 96), pred_boxes=Boxes(torch.tensor([[10.0, -168.0, 38.0, 56.0]])), pred_classes=torch.tensor([0])
    )
    (found,) = predict(model, images=1, detected_instances=[given])
    assert found.pred_boxes.tensor.tolist() == [[20.0, 0.0, 76.0, 112.0]]
    # Of 56 rows in the image 32.
    assert found.pred_pseudo_masks[0, 0].sum(dim=0).tolist() == [16.0] * 28


def test_a_crf_has_no_pseudo_masks_to_show():
    model = build(keep_aux=True, rules={"method": "crf", "crf": L(DenseCRF)()})
    (found,) = predict(model, images=1)
    assert found.has("pred_teacher_masks")
    assert not found.has("pred_pseudo_masks")


def test_training_is_as_it_was():
    losses = []
    for keep_aux in (False, True):
        model = build(keep_aux=keep_aux).train()
        torch.manual_seed(0)
        with EventStorage():
            losses.append({name: loss.item() for name, loss in model(fake_batch()).items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_strips_show_teacher_and_pseudo_mask():
    model = build()
    assert keep_auxiliary_maps(model) == [""]
    (found,) = predict(model, images=1)
    shown = [panel.title for panel in with_further_maps(PANELS, found) if panel.values(found) is not None]
    assert shown == ["teacher", "pseudo mask", "mask"]
    picture = draw_strips(np.zeros((128, 192, 3), np.uint8), found, rows=2, side=60)
    assert picture.shape[1] == 4 * 68 + 8
