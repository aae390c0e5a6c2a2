"""Pascal VOC 2012 with the masks of SBD, under `$DETECTRON2_DATASETS`: trained on 10,582 images, tested on 1,449."""

from .coco import dataloader

dataloader["train"].dataset.names = "voc_2012_inst_trainaug"
dataloader["test"].dataset.names = "voc_2012_inst_val"
