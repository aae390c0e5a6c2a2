"""VOIN's flow completion on YouTube-VOI, 432 x 240 px, from DIS flow: 500,000 iterations at batch 8."""

from ....configs.common.data.youtube_voi import dataloader
from ....configs.common.models.voin_flow import model
from ._base import lr_multiplier, optimizer, train
from ._voin import estimate_flow

estimate_flow(dataloader, exact_truth=False, train={}, test=dict(harmonic=True))
train.checkpointer.best_metric = ""
train.output_dir = "./output/voin_flow_base_ytvoi"
