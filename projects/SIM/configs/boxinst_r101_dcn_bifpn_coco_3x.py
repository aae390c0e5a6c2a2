"""BoxInst R101-BiFPN with every third block of res3 to res5 deformable, on the boxes of COCO 2017, 3x."""

from ....configs.common.models.resnet import use_dcn
from .boxinst_r101_bifpn_coco_3x import dataloader, lr_multiplier, model, optimizer, train

use_dcn(model.detector.backbone, interval=3)
train.output_dir = "./output/boxinst_r101_dcn_bifpn_coco_3x"
