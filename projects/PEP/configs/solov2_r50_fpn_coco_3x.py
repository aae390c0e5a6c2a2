"""SOLOv2 R50-FPN on COCO 2017, 3x: 270,000 iterations at batch 16, 36 epochs; short edge 640 to 800 px."""

from ....configs.common.data.coco import dataloader
from ....configs.common.models.solov2_fpn import model
from ....configs.common.optim.schedules import coco_3x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train

optimizer.lr = 0.01
train["recipe"].update(lr=0.01)
train.update(
    max_iter=270000,
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="./output/solov2_r50_fpn_coco_3x",
)
