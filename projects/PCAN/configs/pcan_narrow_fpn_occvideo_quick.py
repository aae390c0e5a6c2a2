"""A narrow two-stage PCAN on OccVideo: minutes of training on two CPU cores."""

from ._pcan import attend_to_frames, attend_to_instances
from .tracking_rcnn_narrow_fpn_occvideo_quick import dataloader, lr_multiplier, model, optimizer, train

# The three finest levels: features of objects come from P2 here.
attend_to_frames(model, backbone="backbone", levels=["p2", "p3", "p4"], length=4)
model.frame_attention.attention.update(num_prototypes=32, iterations=3)
attend_to_instances(model, backbone="backbone")
model.instance_attention.conv_dim = 64
train.output_dir = "./output/pcan_narrow_fpn_occvideo_quick"
