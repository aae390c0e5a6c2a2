"""VOIN's shape completion on OccVideo, 96 x 64 px: five minutes of training on one CPU core."""

from ....configs.common.data.occvideo_voi import dataloader
from ....configs.common.models.voin_shape_tiny import model
from ._quick import lr_multiplier, optimizer, train
from ._voin import estimate_flow

# The flow-aligned union, a baseline, needs flow in the test.
estimate_flow(dataloader, exact_truth=True, test={})
# An iteration is a third of what it is in the other stages, and masks take more of them.
train.max_iter = 1200
optimizer.lr = 3e-3
train.recipe.lr = 3e-3
train.checkpointer.best_metric = "inpainting/IoU_hidden"
train.output_dir = "./output/voin_shape_tiny_occvideo_quick"
