"""Names of test-time augmentation, which this runtime does not cover."""

from detectron2._left_out import left_out_class

__all__ = ["DatasetMapperTTA", "GeneralizedRCNNWithTTA"]

DatasetMapperTTA = left_out_class("DatasetMapperTTA", "test-time augmentation")
GeneralizedRCNNWithTTA = left_out_class("GeneralizedRCNNWithTTA", "test-time augmentation")
