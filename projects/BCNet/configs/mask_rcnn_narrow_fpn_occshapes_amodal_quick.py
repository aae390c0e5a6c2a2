"""Amodal baseline of the quick rows: the narrow Mask R-CNN learns the whole objects of OccShapes."""

from .mask_rcnn_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "occshapes_amodal_train"
dataloader.test.dataset.names = "occshapes_amodal_val"
dataloader.further_evaluations[-1].loader.dataset.names = "occshapes_amodal_val_occ"
train.output_dir = "./output/bcnet_baseline_mask_rcnn_narrow_fpn_occshapes_amodal_quick"
