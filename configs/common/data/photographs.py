"""Small sets of real images, trained from random weights at a short edge around 256 px."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco import dataloader

dataloader["train"].mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=(208, 304), sample_style="range", max_size=448),
    L(T.RandomCrop)(crop_type="relative_range", crop_size=(0.7, 0.7)),
    L(T.RandomFlip)(horizontal=True),
    L(T.RandomBrightness)(intensity_min=0.7, intensity_max=1.3),
    L(T.RandomContrast)(intensity_min=0.7, intensity_max=1.3),
    L(T.RandomSaturation)(intensity_min=0.6, intensity_max=1.4),
]
dataloader["train"].update(total_batch_size=8, num_workers=1)
dataloader["test"].mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=256, max_size=448)]
dataloader["test"].num_workers = 1
