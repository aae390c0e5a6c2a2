"""PEP R50-FPN on COCO 2017: the paper's 36 epochs, 263,849 iterations of 16 of the 117,266 images with objects."""

from ....configs.common.data.coco import dataloader
from ....configs.common.models.pep_fpn import model
from ....configs.common.optim.schedules import coco_3x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train

# One scale: all that the paper says of augmentation.
dataloader["train"].mapper.augmentations[0].short_edge_length = (800,)
# Tenths at epochs 27 and 33; warm-up as SOLOv2's, the paper names none.
lr_multiplier.update(drop_at=[27 / 36, 33 / 36], warmup_factor=0.01)
optimizer.lr = 0.01
train["recipe"].update(lr=0.01)
train.update(
    max_iter=263849,
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="./output/pep_r50_fpn_coco_3x",
)
