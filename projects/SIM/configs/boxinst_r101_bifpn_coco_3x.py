"""BoxInst R101-BiFPN on the boxes of COCO 2017, 3x."""

from ....configs.common.models.bifpn import use_bifpn
from .boxinst_r101_fpn_coco_3x import dataloader, lr_multiplier, model, optimizer, train

use_bifpn(model.detector)
train.output_dir = "./output/boxinst_r101_bifpn_coco_3x"
