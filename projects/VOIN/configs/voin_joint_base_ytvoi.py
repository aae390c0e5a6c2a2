"""VOIN's three stages trained together on YouTube-VOI, from the weights of `join_checkpoints`: 50,000 iterations."""

from ....configs.common.data.youtube_voi import dataloader
from ....configs.common.models.voin_joint import model
from ._base import lr_multiplier, optimizer, train
from ._voin import estimate_flow, shape_errors

estimate_flow(dataloader, exact_truth=False, train={}, test={})
shape_errors(dataloader, jitter=7)
optimizer.update(lr=1e-5, betas=(0.0, 0.99))
train.recipe.lr = 1e-5
train.max_iter = 50000
train.checkpointer.best_metric = "inpainting/PSNR"
train.output_dir = "./output/voin_joint_base_ytvoi"
