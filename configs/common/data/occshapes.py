"""OccShapes, the generated data set: 128 px images of overlapping shapes, written on first use.

Evaluated over all categories, the seen and the unseen ones, by occlusion, and with the true boxes given.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from instseg_d2.evaluation import OCCLUSION_BINS, GivenBoxesEvaluation, SubsetCOCOEvaluator

from .coco import dataloader

dataloader["train"].dataset.names = "occshapes_train"
dataloader["train"].mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
dataloader["train"].update(total_batch_size=8, num_workers=1)
dataloader["test"].dataset.names = "occshapes_val"
dataloader["test"].mapper.augmentations = []
dataloader["test"].update(batch_size=4, num_workers=1)
dataloader["evaluator"] = L(SubsetCOCOEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}",
    category_subsets={"seen": "occshapes_seen", "unseen": "occshapes_unseen"},
    occlusion_bins=OCCLUSION_BINS,
)
dataloader["further_evaluations"] = [
    L(GivenBoxesEvaluation)(loader="${dataloader.test}", dataset_name="${dataloader.test.dataset.names}")
]
