"""VOIN's content completion on OccVideo, 96 x 64 px: four minutes of training on one CPU core.

Trained on pixels propagated along the true flow, tested on those along the harmonic one.
"""

from ....configs.common.data.occvideo_voi import dataloader
from ....configs.common.models.voin_content_tiny import model
from ._quick import lr_multiplier, optimizer, train
from ._voin import estimate_flow

estimate_flow(dataloader, exact_truth=True, train=dict(along="truth"), test=dict(along="harmonic"))
optimizer.betas = (0.0, 0.99)
train.max_iter = 300
train.checkpointer.best_metric = "inpainting/PSNR_hole"
train.output_dir = "./output/voin_content_tiny_occvideo_quick"
