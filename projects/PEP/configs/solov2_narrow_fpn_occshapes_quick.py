"""A narrow SOLOv2 on OccShapes: minutes of training on two CPU cores."""

from ....configs.common.data.occshapes import dataloader
from ....configs.common.models.solov2_narrow_fpn import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

model.num_classes = 10
train.output_dir = "./output/solov2_narrow_fpn_occshapes_quick"
