"""BDD100K, first stage: boxes and embeddings, from box tracks and single images with boxes; 12 epochs as QDTrack.

Nothing is evaluated, as there are no masks yet.
"""

from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluators

from ....configs.common.data.bdd100k import dataloader, train_on_boxes
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train
from ._bdd100k import lr_multiplier, model

model.roi_heads.update(mask_in_features=None, mask_pooler=None, mask_head=None)
train_on_boxes(dataloader)
dataloader.train.total_batch_size = 16
dataloader.evaluator = L(DatasetEvaluators)(evaluators=[])
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/torchvision/R-50.pkl",
    # 12 epochs of about 340,000 key frames and images.
    max_iter=255000,
    eval_period=0,
    output_dir="./output/tracking_rcnn_r50_fpn_bdd100k_boxes",
)
