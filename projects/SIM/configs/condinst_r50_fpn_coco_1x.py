"""CondInst R50-FPN on COCO 2017, 1x: 90,000 iterations at batch 16. Full supervision."""

from ....configs.common.data.coco import dataloader
from ....configs.common.models.condinst_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train

optimizer.lr = 0.01
train.recipe.lr = 0.01
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="./output/condinst_r50_fpn_coco_1x",
)
