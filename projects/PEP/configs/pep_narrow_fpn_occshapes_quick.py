"""A narrow PEP on OccShapes: minutes of training on two CPU cores."""

from ....configs.common.models.pep_narrow_fpn import model
from .solov2_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, optimizer, train

model.num_classes = 10
train.output_dir = "./output/pep_narrow_fpn_occshapes_quick"
