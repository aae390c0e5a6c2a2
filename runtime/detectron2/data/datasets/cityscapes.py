"""Placeholders for Cityscapes."""

from detectron2._left_out import left_out_function

__all__ = []

load_cityscapes_instances = left_out_function("load_cityscapes_instances", "Cityscapes")
load_cityscapes_semantic = left_out_function("load_cityscapes_semantic", "Cityscapes")
