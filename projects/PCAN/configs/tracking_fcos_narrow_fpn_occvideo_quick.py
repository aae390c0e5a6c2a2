"""A narrow FCOS with masks that tracks, on OccVideo: about three minutes of training on two CPU cores."""

from ....configs.common.data.occvideo import dataloader
from ....configs.common.models.tracking_fcos_narrow_fpn import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

model.detector.num_classes = 10
# Pairs of frames: as many images as other quick recipes have in a batch.
dataloader.train.total_batch_size = 4
train.recipe.total_batch_size = 4
train.max_iter = 400
train.output_dir = "./output/tracking_fcos_narrow_fpn_occvideo_quick"
