"""A narrow SIM on Mask2Former, on the boxes of OccShapes: minutes of training on two CPU cores."""

from ._sim_mask2former import teach_by_boxes
from .mask2former_narrow_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train
from .mask2former_box_narrow_occshapes_quick import model as _box
from .sim_narrow_fpn_occshapes_quick import model as _sim

teach_by_boxes(model, dataloader)
model.supervision = _box.supervision
# As on CondInst: the teacher's memory is a part of the training.
model.update(warmup_iters=200, teacher_momentum=_sim.teacher_momentum)
model.labeler.prototypes.momentum = _sim.labeler.prototypes.momentum
model.copy_paste.bank.capacity = _sim.copy_paste.bank.capacity
train.output_dir = "./output/sim_mask2former_narrow_occshapes_quick"
