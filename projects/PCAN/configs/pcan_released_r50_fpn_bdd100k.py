"""PCAN as its authors released it for BDD100K: only the refinement learns, and frames are filtered in testing alone."""

from ._pcan import attend_to_instances, filter_frames
from .pcan_r50_fpn_bdd100k import dataloader, lr_multiplier, model, optimizer, train

filter_frames(model)
attend_to_instances(model, backbone="backbone", released=True)
# The detections that the release tracks and reports.
model.roi_heads.box_predictor.test_score_thresh = 0.5
train.output_dir = "./output/pcan_released_r50_fpn_bdd100k"
