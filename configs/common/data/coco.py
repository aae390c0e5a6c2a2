"""COCO 2017 under `$DETECTRON2_DATASETS/coco`: short edge 640 to 800 px, flips."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator

from instseg_d2.data import InstanceMapper

# Where the model says it, whatever its kind: R-CNN, detector with a mask head behind it, dense detector.
_num_classes = (
    "${oc.select:model.roi_heads.num_classes,${oc.select:model.detector.num_classes,${oc.select:model.num_classes}}}"
)
_input_format = "${oc.select:model.input_format,BGR}"

dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train", filter_empty=True),
        mapper=L(InstanceMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=(640, 672, 704, 736, 768, 800), sample_style="choice", max_size=1333
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format=_input_format,
            num_classes=_num_classes,
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(InstanceMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format=_input_format,
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(
        dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}", use_fast_impl=True
    ),
)
