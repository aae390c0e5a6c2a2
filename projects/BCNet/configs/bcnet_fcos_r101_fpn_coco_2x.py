"""BCNet on FCOS R101-FPN, 180k x 16, short edge 640 to 800 px: test-dev, Table 3.8."""

from ....configs.common.data.coco import dataloader
from ....configs.common.models.fcos_mask_fpn import model
from ._bcnet import give_bcnet, use_release_fcos
from .fcos_mask_r50_fpn_coco_1x import lr_multiplier, optimizer, train

use_release_fcos(model.detector)
give_bcnet(model, dataloader)
model.detector.backbone.bottom_up.stages.depth = 101
lr_multiplier.drop_at = [140000 / 180000, 170000 / 180000]
train.update(
    max_iter=180000,
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    output_dir="./output/bcnet_fcos_r101_fpn_coco_2x",
)
