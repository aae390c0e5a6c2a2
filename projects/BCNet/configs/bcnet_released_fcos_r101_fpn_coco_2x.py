"""BCNet on FCOS R101-FPN with the settings of the authors' code, 180k x 16, short edge 640 to 800 px.

The model whose weights the authors publish (39.6 mask AP on test-dev): `tools/convert_weights.py --from bcnet`.
"""

from instseg_d2.modeling.mask_heads.bcnet import RELEASED as _RELEASED

from .bcnet_fcos_r101_fpn_coco_2x import dataloader, lr_multiplier, model, optimizer, train

model.mask_head.update(_RELEASED)
model.gt_boxes_only = True
train.output_dir = "./output/bcnet_released_fcos_r101_fpn_coco_2x"
