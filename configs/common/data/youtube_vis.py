"""YouTube-VIS 2019 under `$DETECTRON2_DATASETS/ytvis_2019`: 640 x 360 px, pairs of frames anywhere in a video.

The recipe of SipMask's video form (Cao et al., ECCV 2020), single scale, which PCAN follows.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts

from instseg_d2.data import ReferenceFrames, VideoMapper, build_video_test_loader, build_video_train_loader
from instseg_d2.evaluation.youtube_vis import YouTubeVISEvaluator

from .coco import _input_format, _num_classes

dataloader = dict(
    train=L(build_video_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="ytvis_2019_train", filter_empty=False),
        references=L(ReferenceFrames)(count=1, reach=None, common_identity=False),
        mapper=L(VideoMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=360, max_size=640),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format=_input_format,
            num_classes=_num_classes,
        ),
        # 4 GPUs x 8 key frames.
        total_batch_size=32,
        num_workers=4,
    ),
    test=L(build_video_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="ytvis_2019_val", filter_empty=False),
        mapper=L(VideoMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=360, max_size=640)],
            image_format=_input_format,
        ),
        num_workers=4,
    ),
    evaluator=L(YouTubeVISEvaluator)(dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}"),
)
