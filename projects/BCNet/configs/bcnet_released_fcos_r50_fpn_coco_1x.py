"""BCNet on FCOS R50-FPN as released: an upsampling per output, BatchNorm, and masks trained on true boxes alone.

Takes the authors' checkpoints: `tools/convert_weights.py --from bcnet`.
"""

from instseg_d2.modeling.mask_heads.bcnet import RELEASED as _RELEASED

from .bcnet_fcos_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

model.mask_head.update(_RELEASED)
model.gt_boxes_only = True
train.output_dir = "./output/bcnet_released_fcos_r50_fpn_coco_1x"
