"""A narrow Mask R-CNN on photographs of mandarins, from random weights: under 20 minutes on two CPU cores.

The set lies under `$DETECTRON2_DATASETS/mandarin`.
"""

from ....configs.common.data.photographs import dataloader
from ....configs.common.models.mask_rcnn_narrow_fpn import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

dataloader.train.dataset.names = "mandarin_train"
dataloader.test.dataset.names = "mandarin_val"
model.roi_heads.num_classes = 1
train.max_iter = 600
train.output_dir = "./output/mask_rcnn_narrow_fpn_mandarin"
