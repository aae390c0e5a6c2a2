"""COCO 2017 with large-scale jitter: scaled by 0.1 to 2, cut or padded to 1024 x 1024 px, flips."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco import dataloader

dataloader["train"].mapper.update(
    augmentations=[
        L(T.RandomFlip)(horizontal=True),
        L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=1024, target_width=1024),
        L(T.FixedSizeCrop)(crop_size=(1024, 1024)),
    ],
    # Losses that look at colors must know the padding.
    image_box=True,
)
