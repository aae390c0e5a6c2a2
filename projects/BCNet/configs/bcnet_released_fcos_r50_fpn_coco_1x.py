"""BCNet on FCOS R50-FPN with the settings of the authors' code, 90k x 16 at 600 px.

An upsampling per output, BatchNorm in the graph convolutions, and masks trained on true boxes alone. Weights of that
code load after `tools/convert_weights.py --from bcnet`; the authors publish none of this depth.
"""

from instseg_d2.modeling.mask_heads.bcnet import RELEASED as _RELEASED

from .bcnet_fcos_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

model.mask_head.update(_RELEASED)
model.gt_boxes_only = True
train.output_dir = "./output/bcnet_released_fcos_r50_fpn_coco_1x"
