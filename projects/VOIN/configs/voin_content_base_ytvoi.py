"""VOIN's content completion on YouTube-VOI, 432 x 240 px: 500,000 iterations at batch 8, both discriminators."""

from instseg_d2.evaluation.image_quality import find_lpips

from detectron2.config import LazyCall as L

from ....configs.common.data.youtube_voi import dataloader
from ....configs.common.models.voin_content import model
from ._base import lr_multiplier, optimizer, train
from ._voin import estimate_flow

estimate_flow(dataloader, exact_truth=False, train=dict(along="truth"), test=dict(along="harmonic"))
dataloader.evaluator.evaluator.lpips = L(find_lpips)()
optimizer.betas = (0.0, 0.99)
train.checkpointer.best_metric = "inpainting/PSNR"
train.output_dir = "./output/voin_content_base_ytvoi"
