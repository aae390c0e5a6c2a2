"""VOIN's flow completion on OccVideo, 96 x 64 px: two minutes of training on one CPU core. EPE: lower is better."""

from ....configs.common.data.occvideo_voi import dataloader
from ....configs.common.models.voin_flow_tiny import model
from ._quick import lr_multiplier, optimizer, train
from ._voin import estimate_flow

model.network.start = "harmonic"
estimate_flow(dataloader, exact_truth=True, train=dict(harmonic=True), test=dict(harmonic=True))
train.max_iter = 400
train.checkpointer.best_metric = ""
train.output_dir = "./output/voin_flow_tiny_occvideo_quick"
