"""A narrow Mask2Former on the boxes of OccShapes: minutes of training on two CPU cores."""

from ._mask2former_box import supervise_by_boxes
from .mask2former_narrow_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

supervise_by_boxes(model, dataloader)
model.supervision.update(warmup_iters=50, color_threshold=0.1, bottom_pixels_removed=0)
train.output_dir = "./output/mask2former_box_narrow_occshapes_quick"
