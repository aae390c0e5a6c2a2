"""BCNet on FCOS ResNeXt-101-32x8d-FPN with the settings of the authors' code, 180k x 16.

The authors publish its scores (41.2 mask AP on test-dev), but neither weights nor a config: the kind of ResNeXt, the
schedule and the image sizes are those that their code has for other models. Weights of that code load after
`tools/convert_weights.py --from bcnet`.
"""

from instseg_d2.modeling.mask_heads.bcnet import RELEASED as _RELEASED

from .bcnet_fcos_x101_fpn_coco_2x import dataloader, lr_multiplier, model, optimizer, train

model.mask_head.update(_RELEASED)
model.gt_boxes_only = True
train.output_dir = "./output/bcnet_released_fcos_x101_fpn_coco_2x"
