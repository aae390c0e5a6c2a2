"""Oracle of Table 1: Mask R-CNN R50-FPN with the masks of all categories.

Evaluated on what VOC does not have; on VOC with `dataloader.evaluator.category_subsets.unseen=coco_voc`. It is
class-agnostic with `model.roi_heads.mask_head.num_classes=1`.
"""

from detectron2.config import LazyCall as L

from instseg_d2.data import FullSupervision

from .mask_rcnn_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.supervision = L(FullSupervision)()
dataloader.evaluator.category_subsets = {"unseen": "coco_nonvoc"}
model.roi_heads.mask_head.num_classes = "${..num_classes}"
train.output_dir = "./output/oracle_mask_rcnn_r50_fpn_coco_1x"
