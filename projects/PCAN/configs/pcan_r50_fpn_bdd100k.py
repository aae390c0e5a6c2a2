"""BDD100K, last stage: both levels of PCAN as in the thesis, on the detector of the stages before, which stays."""

from ._pcan import attend_to_frames, attend_to_instances
from .tracking_rcnn_r50_fpn_bdd100k_masks import dataloader, lr_multiplier, model, optimizer, train

# Objects of this size have their features from P2, too.
attend_to_frames(model, backbone="backbone", levels=["p2", "p3", "p4"], length=4)
model.frame_attention.attention.update(num_prototypes=30, iterations=3)
attend_to_instances(model, backbone="backbone")
train.update(
    init_checkpoint="./output/tracking_rcnn_r50_fpn_bdd100k_masks/model_final.pth",
    freeze=["backbone", "proposal_generator", "roi_heads", "track_head"],
    output_dir="./output/pcan_r50_fpn_bdd100k",
)
