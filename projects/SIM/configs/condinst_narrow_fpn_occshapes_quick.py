"""A narrow CondInst on OccShapes, full supervision: less than three minutes of training on two CPU cores."""

from ....configs.common.data.occshapes import dataloader
from ....configs.common.models.condinst_narrow_fpn import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

model.detector.num_classes = 10
optimizer.lr = 2e-3
train.recipe.lr = 2e-3
train.max_iter = 180
train.output_dir = "./output/condinst_narrow_fpn_occshapes_quick"
