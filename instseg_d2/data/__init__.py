"""Data sets, generated data, and the mappers that turn records into model inputs."""

from .category_splits import CATEGORY_SPLITS, category_names, other_categories
from .datasets import (
    BUILTIN_DATASETS,
    CocoDataset,
    Problem,
    prepare_dataset,
    register_bdd100k,
    register_builtin,
    register_coco,
    register_cocoa,
    register_kins,
    register_voc,
    register_youtube_vis,
    validate_coco,
)
from .errors import DatasetError, SampleError
from .mappers import InstanceMapper
from .occluders import OccluderRule, occluder_masks
from .shot_list import Shot, ShotList
from .supervision import (
    BoxSupervision,
    FewShot,
    FullSupervision,
    OnlyCategories,
    PartialSupervision,
    Supervision,
    get_supervised_dataset_dicts,
    load_records,
)
from .synthetic import SEEN, UNSEEN, write_occshapes
from .video_mapper import VideoMapper
from .videos import (
    ReferenceFrames,
    VideoClips,
    WholeVideoSampler,
    build_video_test_loader,
    build_video_train_loader,
)
