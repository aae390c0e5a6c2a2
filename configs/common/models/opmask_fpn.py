"""OPMask on ResNet-50 FPN: a convolutional box head, whose class activation maps are added to the mask features.

The norm is batch norm over all processes, and over the one of a single-process run; it takes a rank without regions.
"""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.roi_heads import CAMROIHeads

from .mask_rcnn_fpn import model

_norm = "naiveSyncBN_N"

model.roi_heads.update(_target_=CAMROIHeads, keep_aux=False)
model.roi_heads.box_head.update(conv_dims=[512, 1024, 1024, 1024], fc_dims=[], conv_norm=_norm)
# Seven 3x3 convolutions and the transposed one.
model.roi_heads.mask_head.update(num_classes=1, conv_dims=[256] * 8, conv_norm=_norm)
