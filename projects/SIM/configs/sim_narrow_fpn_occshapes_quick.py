"""A narrow SIM on the boxes of OccShapes: minutes of training on two CPU cores."""

from ._sim import teach_by_boxes
from .boxinst_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

_color = model.supervision.color_threshold
teach_by_boxes(model, dataloader)
model.positives_per_image = 16
model.supervision.update(warmup_iters=40, color_threshold=_color, bottom_pixels_removed=0)
# From random weights the masks need a third of the training, not COCO's ninth, before they may teach.
model.warmup_iters = 120
# The teacher's memory is a ninth of the training, as on COCO.
model.teacher_momentum = 0.975
model.labeler.prototypes.momentum = 0.99
model.copy_paste.bank.capacity = 32
train.max_iter = 360
train.output_dir = "./output/sim_narrow_fpn_occshapes_quick"
