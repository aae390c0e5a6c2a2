"""OccShapes, the generated data set: 128 px images of overlapping shapes, written on first use."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco import dataloader

dataloader["train"].dataset.names = "occshapes_train"
dataloader["train"].mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
dataloader["train"].update(total_batch_size=8, num_workers=1)
dataloader["test"].dataset.names = "occshapes_val"
dataloader["test"].mapper.augmentations = []
dataloader["test"].update(batch_size=4, num_workers=1)
