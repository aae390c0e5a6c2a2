"""Baseline of Table 1: class-agnostic Mask R-CNN R50-FPN, masks of VOC's 20 categories, 12 epochs, short edge 800."""

from detectron2.data import MetadataCatalog as _MetadataCatalog

from ....configs.common.data.coco import dataloader
from ....configs.common.data.partial import hide_masks as _hide_masks
from ....configs.common.models.mask_rcnn_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train
from ._teacher_student import take_512_keep_150 as _take_512_keep_150

_hide_masks(dataloader, seen="coco_voc", class_names=_MetadataCatalog.get("coco_2017_val").thing_classes)
dataloader.train.mapper.augmentations[0].short_edge_length = (800,)
lr_multiplier.warmup_iters = 500
model.roi_heads.mask_head.num_classes = 1
# For Fig. 8: unseen however many categories are seen.
dataloader.evaluator.category_subsets.never = "coco_never_seen"
_take_512_keep_150(model, dataloader)
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.output_dir = "./output/mask_rcnn_r50_fpn_coco_voc_1x"
