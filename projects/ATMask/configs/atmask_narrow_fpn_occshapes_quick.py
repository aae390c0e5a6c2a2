"""ATMask R-CNN on the narrow backbone, on OccShapes: minutes of training on two CPU cores."""

from ._atmask import give_atmask
from .mask_rcnn_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

give_atmask(model)
train.output_dir = "./output/atmask_narrow_fpn_occshapes_quick"
