"""BCNet on FCOS R50-FPN, 90k x 16 at 600 px: the model of Tables 3.1 to 3.3."""

from ._bcnet import give_bcnet
from .fcos_mask_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

give_bcnet(model, dataloader)
train.output_dir = "./output/bcnet_fcos_r50_fpn_coco_1x"
