"""BDD100K, second stage: the mask head alone learns, from tracks and single images with masks; 12 epochs."""

from ....configs.common.data.bdd100k import dataloader
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train
from ._bdd100k import lr_multiplier, model

optimizer.lr = 0.01
train.update(
    init_checkpoint="./output/tracking_rcnn_r50_fpn_bdd100k_boxes/model_final.pth",
    freeze=["backbone", "proposal_generator", "roi_heads.box_head", "roi_heads.box_predictor", "track_head"],
    # 12 epochs of about 37,800 key frames and images.
    max_iter=56700,
    output_dir="./output/tracking_rcnn_r50_fpn_bdd100k_masks",
)
train["recipe"].update(total_batch_size=8, lr=0.01)
