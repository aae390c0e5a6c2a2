"""OPMask on the backbone of `mask_rcnn_narrow_fpn`, for images of 128 to 320 px."""

from .mask_rcnn_narrow_fpn import model as _mask_rcnn
from .opmask_fpn import model

model.update(
    backbone=_mask_rcnn.backbone, proposal_generator=_mask_rcnn.proposal_generator, pixel_std=_mask_rcnn.pixel_std
)
model.roi_heads.batch_size_per_image = _mask_rcnn.roi_heads.batch_size_per_image
model.roi_heads.box_head.conv_dims = [128, 128, 128]
model.roi_heads.box_predictor.input_shape.channels = 128
model.roi_heads.mask_head.conv_dims = [64] * 7
