"""CPMask on the narrow Cascade R-CNN, masks of five of OccShapes' ten categories."""

from ....configs.common.models.cascade_mask_rcnn_narrow_fpn import model
from ._cpmask import give_cpmask
from .fcos_mask_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, optimizer, train

give_cpmask(model.roi_heads)
model.roi_heads.num_classes = 10
train.output_dir = "./output/cpmask_cascade_narrow_fpn_occshapes_quick"
