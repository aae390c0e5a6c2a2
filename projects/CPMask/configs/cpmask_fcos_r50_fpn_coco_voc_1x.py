"""CPMask on FCOS R50-FPN, masks of VOC's 20 categories, 90k x 16, short edge 800."""

from ....configs.common.data.coco import dataloader
from ....configs.common.models.fcos_mask_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train
from ._cpmask import give_cpmask, see_masks_of

see_masks_of(dataloader, "voc")
give_cpmask(model)
dataloader.train.mapper.augmentations[0].short_edge_length = (800,)
optimizer.lr = 0.01
train.recipe.lr = 0.01
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="./output/cpmask_fcos_r50_fpn_coco_voc_1x",
)
