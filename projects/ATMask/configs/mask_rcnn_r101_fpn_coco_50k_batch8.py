"""Baseline of the R101 rows: Mask R-CNN R101-FPN from a trained Faster R-CNN, detection branches frozen, 50k x 8.

`train.init_checkpoint` is a trained Faster R-CNN R101-FPN; of it RPN and box head stay as they are.
"""

from .mask_rcnn_r50_fpn_coco_90k_batch12 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 101
dataloader.train.total_batch_size = 8
lr_multiplier.drop_at = [30000 / 50000, 40000 / 50000]
train.recipe.total_batch_size = 8
train.freeze = ["proposal_generator", "roi_heads.box_head", "roi_heads.box_predictor"]
train.update(
    max_iter=50000,
    init_checkpoint="detectron2://COCO-Detection/faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl",
    output_dir="./output/atmask_baseline_mask_rcnn_r101_fpn_coco_50k_batch8",
)
