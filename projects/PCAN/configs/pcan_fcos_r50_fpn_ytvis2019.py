"""One-stage PCAN, R50-FPN on YouTube-VIS 2019: both levels, clips of 32 frames, 30 + 30 prototypes an instance."""

from ._pcan import attend_to_frames, attend_to_instances
from .tracking_fcos_r50_fpn_ytvis2019 import dataloader, lr_multiplier, model, optimizer, train

attend_to_frames(model, backbone="detector.backbone", levels=["p3", "p4", "p5"], length=32)
attend_to_instances(model, backbone="detector.backbone")
train.output_dir = "./output/pcan_fcos_r50_fpn_ytvis2019"
