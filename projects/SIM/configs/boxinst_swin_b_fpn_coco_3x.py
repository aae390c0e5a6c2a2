"""BoxInst Swin-B-FPN on the boxes of COCO 2017, 3x, from ImageNet-22k weights."""

from ....configs.common.optim.adamw import optimizer
from ._swin import use_swin_b
from .boxinst_r50_fpn_coco_3x import dataloader, lr_multiplier, model, train

use_swin_b(model, optimizer, train)
train.output_dir = "./output/boxinst_swin_b_fpn_coco_3x"
