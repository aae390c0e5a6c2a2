"""Any mask head behind any detector: each pair trains two steps and predicts.

A new head is one line in `HEADS`: its node, and whether it takes pooled features or the maps themselves.
"""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from instseg_d2.data.occluders import occluder_masks
from instseg_d2.modeling.mask_heads.atmask import ATMaskHead
from instseg_d2.modeling.mask_heads.bcnet import RELEASED, BCNetHead
from instseg_d2.modeling.mask_heads.cpmask import CPMaskHead
from instseg_d2.modeling.mask_heads.mask_rcnn import MaskRCNNHead
from instseg_d2.modeling.mask_heads.teacher_student import TeacherStudentHead
from instseg_d2.modeling.pseudo_masks import PseudoMasks
from instseg_d2.testing import (
    TINY_CHANNELS,
    fake_batch,
    put_mask_head,
    tiny_cascade_config,
    tiny_fcos_mask_config,
    tiny_mask_rcnn_config,
)

CLASSES = 3


_SHAPE = L(ShapeSpec)(channels=TINY_CHANNELS, width=14, height=14)


def _pooler(size):
    return L(ROIPooler)(output_size=size, scales=[1 / 4], sampling_ratio=0, pooler_type="ROIAlignV2")


DETECTORS = {"faster": tiny_mask_rcnn_config, "cascade": tiny_cascade_config, "fcos": tiny_fcos_mask_config}
HEADS = {
    "detectron2": (L(MaskRCNNConvUpsampleHead)(input_shape=_SHAPE, num_classes=CLASSES, conv_dims=[16, 16]), True),
    "mask_rcnn": (L(MaskRCNNHead)(input_shape=_SHAPE, num_classes=CLASSES, conv_dims=[16, 16]), True),
    "agnostic": (L(MaskRCNNHead)(input_shape=_SHAPE, num_classes=1, conv_dims=[16, 16]), True),
    "bcnet": (L(BCNetHead)(input_shape=_SHAPE, conv_dim=TINY_CHANNELS, num_convs=2), True),
    "bcnet_released": (L(BCNetHead)(input_shape=_SHAPE, conv_dim=TINY_CHANNELS, num_convs=2, **RELEASED), True),
    "cpmask": (L(CPMaskHead)(input_shape=_SHAPE, conv_dim=TINY_CHANNELS, num_convs=2, num_boundary_convs=1), True),
    "teacher_student": (
        L(TeacherStudentHead)(
            teacher=L(MaskRCNNHead)(input_shape=_SHAPE, num_classes=1, conv_dims=[16, 16]),
            student=L(MaskRCNNHead)(input_shape=_SHAPE, num_classes=CLASSES, conv_dims=[16, 16]),
            pseudo_masks=L(PseudoMasks)(),
        ),
        True,
    ),
    "atmask": (
        L(ATMaskHead)(
            in_channels=TINY_CHANNELS,
            num_classes=CLASSES,
            in_features=["p2"],
            pooler=_pooler(14),
            threshold_in_features=["p2"],
            threshold_pooler=_pooler(28),
            conv_dim=16,
        ),
        False,
    ),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_trains_and_predicts(detector, head):
    node, pooled = HEADS[head]
    torch.manual_seed(0)
    model = instantiate(put_mask_head(DETECTORS[detector](CLASSES), node, pooled=pooled))
    optimizer, batch = torch.optim.SGD(model.parameters(), 1e-3), fake_batch(num_classes=CLASSES)
    for x in (item["instances"] for item in batch):
        x.gt_occluders = BitMasks(occluder_masks(x.gt_masks.tensor, x.gt_boxes.tensor))
    keys = []
    with EventStorage():
        for _ in range(2):
            losses = model(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
            optimizer.step()
            keys.append(set(losses))
    assert keys[0] == keys[1]
    assert losses["loss_mask"].item() > 0

    model.eval()
    given = [item["instances"] for item in batch]
    for x in given:
        x.pred_boxes, x.pred_classes = x.gt_boxes, x.gt_classes
        for name in [name for name in x.get_fields() if name.startswith("gt_")]:
            x.remove(name)
    with torch.no_grad():
        detected = model(batch)
        segmented = model.inference(batch, detected_instances=given)
    for x in detected:
        assert x["instances"].pred_masks.shape == (len(x["instances"]), 64, 96)
    assert [x["instances"].pred_masks.shape for x in segmented] == [(2, 64, 96)] * 2
