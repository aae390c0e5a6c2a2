"""VOIN's shape completion on YouTube-VOI, 432 x 240 px: 8 layers, 4 heads, 500,000 iterations at batch 8."""

from ....configs.common.data.youtube_voi import dataloader
from ....configs.common.models.voin_shape import model
from ._base import lr_multiplier, optimizer, train

train.checkpointer.best_metric = "inpainting/IoU_hidden"
train.output_dir = "./output/voin_shape_base_ytvoi"
