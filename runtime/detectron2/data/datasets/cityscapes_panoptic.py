"""Placeholders for the panoptic version of Cityscapes."""

from detectron2._left_out import left_out_function

__all__ = []

load_cityscapes_panoptic = left_out_function("load_cityscapes_panoptic", "panoptic segmentation")
register_all_cityscapes_panoptic = left_out_function("register_all_cityscapes_panoptic", "panoptic segmentation")
