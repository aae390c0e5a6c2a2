"""Data sets, generated data, and the mappers that turn records into model inputs."""

from .datasets import (
    BUILTIN_DATASETS,
    CocoDataset,
    Problem,
    prepare_dataset,
    register_builtin,
    register_coco,
    validate_coco,
)
from .errors import DatasetError, SampleError
from .mappers import InstanceMapper
from .synthetic import SEEN, UNSEEN, write_occshapes
