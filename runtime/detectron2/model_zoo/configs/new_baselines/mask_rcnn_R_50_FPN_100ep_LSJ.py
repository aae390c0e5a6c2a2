"""Mask R-CNN, R50-FPN, from random weights with large-scale jitter, 100 epochs of COCO in batches of 64."""

from functools import partial

from fvcore.common.param_scheduler import MultiStepParamScheduler

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from detectron2.solver import WarmupParamScheduler

from ..common.data.coco import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.train import train

train.init_checkpoint = ""
train.amp.enabled = True
train.ddp.fp16_compression = True
# 64 images * 184375 / 118000 images
train.max_iter = 184375
optimizer.lr = 0.1
optimizer.weight_decay = 4e-5
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[163889, 177546], num_updates=train.max_iter
    ),
    warmup_length=500 / train.max_iter,
    warmup_factor=0.067,
)

dataloader.train.total_batch_size = 64
dataloader.train.mapper.recompute_boxes = True
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=1024, target_width=1024),
    L(T.FixedSizeCrop)(crop_size=(1024, 1024)),
    L(T.RandomFlip)(horizontal=True),
]

model.backbone.bottom_up.freeze_at = 0
model.backbone.bottom_up.stem.norm = "SyncBN"
model.backbone.bottom_up.stages.norm = "SyncBN"
model.backbone.norm = "SyncBN"
model.proposal_generator.head.conv_dims = [-1, -1]
model.roi_heads.box_head.conv_dims = [256] * 4
model.roi_heads.box_head.fc_dims = [1024]
# A rank may have no box at all, which torch's SyncBatchNorm does not take.
model.roi_heads.box_head.conv_norm = partial(NaiveSyncBatchNorm, stats_mode="N")
model.roi_heads.mask_head.conv_norm = partial(NaiveSyncBatchNorm, stats_mode="N")
