"""BDD100K under `$DETECTRON2_DATASETS/bdd100k`: 1296 x 720 px, pairs of frames at most 3 apart.

Tracks with masks and single images with masks for training, tracks with masks (MOTS) for testing, as in the stages of
PCAN's release that train masks. `train_on_boxes` is the loader of its first stage.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from instseg_d2.evaluation.mots import MOTSEvaluator

from .youtube_vis import dataloader

dataloader["train"].dataset.names = ["bdd100k_seg_track_train", "bdd100k_ins_seg_train"]
# Pairs of nothing in common would teach no identity.
dataloader["train"].references.update(reach=3, common_identity=True)
# 4 GPUs x 2 key frames.
dataloader["train"].total_batch_size = 8
dataloader["test"].dataset.names = "bdd100k_seg_track_val"
for _split in ("train", "test"):
    dataloader[_split].mapper.augmentations[0] = L(T.ResizeShortestEdge)(short_edge_length=720, max_size=1296)
dataloader["evaluator"] = L(MOTSEvaluator)(dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}")


def train_on_boxes(dataloader):
    """Train on box tracks and on single images with boxes, in place."""
    dataloader["train"].dataset.names = ["bdd100k_mot_train", "bdd100k_det_train"]
    dataloader["train"].mapper.use_instance_mask = False
