"""BoxInst R101-BiFPN with all blocks of res3 to res5 deformable, as its released code builds it, 3x."""

from .boxinst_r101_dcn_bifpn_coco_3x import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.bottom_up.stages.deform_interval = 1
train.output_dir = "./output/boxinst_released_r101_dcn_bifpn_coco_3x"
