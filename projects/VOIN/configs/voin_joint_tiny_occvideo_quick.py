"""VOIN's three stages trained together on OccVideo, 96 x 64 px, from the weights of `join_checkpoints`."""

from ....configs.common.data.occvideo_voi import dataloader
from ....configs.common.models.voin_joint_tiny import model
from ._quick import lr_multiplier, optimizer, train
from ._voin import estimate_flow, shape_errors

estimate_flow(dataloader, exact_truth=True, train={}, test={})
shape_errors(dataloader, jitter=1)
optimizer.betas = (0.0, 0.99)
train.checkpointer.best_metric = "inpainting/PSNR_hole"
train.output_dir = "./output/voin_joint_tiny_occvideo_quick"
