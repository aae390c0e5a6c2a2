"""A strip of OPMask with a teacher shows the prior, the teacher, the pseudo mask and the student side by side."""

import numpy as np
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec

from instseg_d2.engine.auxiliary_maps import keep_auxiliary_maps
from instseg_d2.modeling.mask_heads.mask_rcnn import MaskRCNNHead
from instseg_d2.modeling.mask_heads.teacher_student import TeacherStudentHead
from instseg_d2.modeling.pseudo_masks import PseudoMasks
from instseg_d2.modeling.roi_heads import CAMROIHeads
from instseg_d2.testing import TINY_CHANNELS, fake_batch, put_mask_head, tiny_mask_rcnn_config
from instseg_d2.visualization.panels import PANELS, with_further_maps
from instseg_d2.visualization.strips import draw_strips


def test_all_maps_have_their_panel():
    shape = L(ShapeSpec)(channels=TINY_CHANNELS, width=14, height=14)
    head = L(TeacherStudentHead)(
        teacher=L(MaskRCNNHead)(input_shape=shape, num_classes=1, conv_dims=[16, 16]),
        student=L(MaskRCNNHead)(input_shape=shape, num_classes=3, conv_dims=[16, 16]),
        pseudo_masks=L(PseudoMasks)(),
    )
    config = put_mask_head(tiny_mask_rcnn_config(), head)
    config.roi_heads.update(_target_=CAMROIHeads)
    config.roi_heads.box_head.update(conv_dims=[16, 32], fc_dims=[])
    config.roi_heads.box_predictor.test_score_thresh = 0.0
    model = instantiate(config).eval()
    assert keep_auxiliary_maps(model) == ["roi_heads", "roi_heads.mask_head"]
    with torch.no_grad():
        (result,) = model([{"image": fake_batch(1)[0]["image"]}])
    instances = result["instances"]
    shown = [panel.title for panel in with_further_maps(PANELS, instances) if panel.values(instances) is not None]
    assert shown == ["class activation", "teacher", "pseudo mask", "soft mask", "mask"]
    picture = draw_strips(np.zeros((64, 96, 3), np.uint8), instances, rows=2, side=60)
    assert picture.shape[1] == 6 * 68 + 8
