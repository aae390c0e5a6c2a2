"""A narrow Mask2Former on OccShapes, full supervision: minutes of training on two CPU cores."""

from ....configs.common.data.occshapes import dataloader
from ....configs.common.models.mask2former_narrow import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

model.num_classes = 10
train.output_dir = "./output/mask2former_narrow_occshapes_quick"
