"""A narrow CondInst on OccShapes, full supervision: less than three minutes of training on two CPU cores."""

from detectron2.config import LazyCall as L

from instseg_d2.evaluation import touching_same_class, touching_same_color

from ....configs.common.data.occshapes import dataloader
from ....configs.common.models.condinst_narrow_fpn import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

model.detector.num_classes = 10
dataloader.evaluator.instance_subsets = [L(touching_same_class)(), L(touching_same_color)()]
optimizer.lr = 2e-3
train.recipe.lr = 2e-3
train.max_iter = 180
train.output_dir = "./output/condinst_narrow_fpn_occshapes_quick"
