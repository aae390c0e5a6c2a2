"""Cascade Mask R-CNN with the narrow backbone and heads of `mask_rcnn_narrow_fpn`."""

from .cascade_mask_rcnn_fpn import make_cascade
from .mask_rcnn_narrow_fpn import model

make_cascade(model, fc_dims=[128, 128])
# Three stages on half the regions, with as many of them in front of the mask head: 16 an image.
model.roi_heads.update(batch_size_per_image=32, positive_fraction=0.5)
