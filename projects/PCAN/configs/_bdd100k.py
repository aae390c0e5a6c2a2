"""What the recipes for BDD100K share: the detector of PCAN's release, and its schedule.

torchvision's ResNet-50, RGB images, smooth L1 losses, 8 classes; 12 epochs, with drops after 8 and 11 of them.
"""

from detectron2.config import LazyCall as L

from instseg_d2.engine.lr_schedule import warmup_multistep

from ....configs.common.models.tracking_rcnn_fpn import model

model.backbone.bottom_up.stages.stride_in_1x1 = False
model.update(pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375], input_format="RGB")
model.proposal_generator.smooth_l1_beta = 1 / 9
model.roi_heads.num_classes = 8
model.roi_heads.box_predictor.smooth_l1_beta = 1.0
lr_multiplier = L(warmup_multistep)(max_iter="${train.max_iter}", drop_at=[8 / 12, 11 / 12], warmup_iters=1000)
