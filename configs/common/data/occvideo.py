"""OccVideo, the generated data set: 128 px videos of shapes that pass behind one another, written on first use.

Evaluated as YouTube-VIS (AP of tracks: `segm`) and as BDD100K's MOTS (`mots`, and AP of frames: `segm_frames`).
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluators

from instseg_d2.evaluation.mots import MOTSEvaluator

from .youtube_vis import dataloader

dataloader["train"].dataset.names = "occvideo_train"
dataloader["train"].mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
dataloader["train"].update(total_batch_size=8, num_workers=1)
dataloader["test"].dataset.names = "occvideo_val"
dataloader["test"].mapper.augmentations = []
dataloader["test"].num_workers = 1
dataloader["evaluator"] = L(DatasetEvaluators)(
    evaluators=[
        dataloader["evaluator"],
        L(MOTSEvaluator)(dataset_name="occvideo_mots_val", output_dir="${train.output_dir}", frames_task="segm_frames"),
    ]
)
dataloader["evaluator"].evaluators[0].dataset_name = "${dataloader.test.dataset.names}"
