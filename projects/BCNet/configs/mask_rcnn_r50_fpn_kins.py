"""Amodal baseline of Table 3.6: Mask R-CNN R50-FPN on KINS, 24k x 8, short edge 800 px."""

from detectron2.config import LazyCall as L

from instseg_d2.evaluation import AmodalEvaluator

from ....configs.common.data.coco import dataloader
from ....configs.common.models.mask_rcnn_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train

dataloader.train.dataset.names = "kins_train"
dataloader.train.mapper.augmentations[0].update(short_edge_length=(800,), max_size=3000)
dataloader.train.total_batch_size = 8
dataloader.test.dataset.names = "kins_val"
dataloader.test.mapper.augmentations[0].max_size = 3000
dataloader.evaluator = L(AmodalEvaluator)(dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}")
model.roi_heads.num_classes = 7
lr_multiplier.drop_at = [20000 / 24000, 22000 / 24000]
train.recipe.total_batch_size = 8
train.update(
    max_iter=24000,
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="./output/mask_rcnn_r50_fpn_kins",
)
