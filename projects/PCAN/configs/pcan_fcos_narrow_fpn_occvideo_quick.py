"""A narrow one-stage PCAN on OccVideo: minutes of training on two CPU cores."""

from ._pcan import attend_to_frames, attend_to_instances
from .tracking_fcos_narrow_fpn_occvideo_quick import dataloader, lr_multiplier, model, optimizer, train

attend_to_frames(model, backbone="detector.backbone", levels=["p2", "p3", "p4"], length=4)
attend_to_instances(model, backbone="detector.backbone")
model.frame_attention.attention.update(num_prototypes=32, iterations=3)
model.instance_attention.conv_dim = 64
train.output_dir = "./output/pcan_fcos_narrow_fpn_occvideo_quick"
