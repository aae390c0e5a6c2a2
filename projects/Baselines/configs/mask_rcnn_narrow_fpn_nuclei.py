"""A narrow Mask R-CNN on microscope images of cell nuclei (Data Science Bowl 2018): many small instances an image.

The set lies under `$DETECTRON2_DATASETS/dsb2018_nuclei`.
"""

from .mask_rcnn_narrow_fpn_mandarin import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "nuclei_train"
dataloader.test.dataset.names = "nuclei_val"
model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
model.proposal_generator.post_nms_topk = (400, 400)
# Nuclei images hold up to some hundreds of instances.
model.roi_heads.box_predictor.test_topk_per_image = 300
dataloader.evaluator.max_dets_per_image = 300
train.output_dir = "./output/mask_rcnn_narrow_fpn_nuclei"
