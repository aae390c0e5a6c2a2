"""Learning-rate schedules. Drops are fractions of the training, so `train.max_iter` may be changed alone.

The warm-up is a number of iterations: it keeps its length when the training is made shorter or longer.
"""

from detectron2.config import LazyCall as L

from instseg_d2.engine.lr_schedule import warmup_cosine, warmup_multistep

# COCO "1x": 90,000 iterations at batch 16, about 12 epochs.
coco_1x = L(warmup_multistep)(max_iter="${train.max_iter}", drop_at=[60000 / 90000, 80000 / 90000], warmup_iters=1000)
# COCO "3x": 270,000 iterations, about 37 epochs.
coco_3x = L(warmup_multistep)(
    max_iter="${train.max_iter}", drop_at=[210000 / 270000, 250000 / 270000], warmup_iters=1000
)
# Pascal VOC: 20,000 iterations, about 30 epochs of its 10,582 images.
voc_20k = L(warmup_multistep)(max_iter="${train.max_iter}", drop_at=[15000 / 20000], warmup_iters=1000)
# COCO, 50 epochs at batch 16: 368,750 iterations, as DETR's successors train.
coco_50e = L(warmup_multistep)(
    max_iter="${train.max_iter}",
    drop_at=[327778 / 368750, 355092 / 368750],
    # At the full rate from the start.
    warmup_iters=10,
    warmup_factor=1.0,
)
cosine = L(warmup_cosine)(max_iter="${train.max_iter}", warmup_iters=50)
