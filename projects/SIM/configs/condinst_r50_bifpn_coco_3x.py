"""CondInst R50-BiFPN on COCO 2017, 3x."""

from ....configs.common.models.bifpn import use_bifpn
from .condinst_r50_fpn_coco_3x import dataloader, lr_multiplier, model, optimizer, train

use_bifpn(model.detector)
train.output_dir = "./output/condinst_r50_bifpn_coco_3x"
