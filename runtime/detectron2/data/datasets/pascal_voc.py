"""Placeholders for the box annotations of PASCAL VOC, and its class names."""

from detectron2._left_out import left_out_function

__all__ = ["load_voc_instances", "register_pascal_voc"]

CLASS_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor".split()
)

load_voc_instances = left_out_function("load_voc_instances", "the PASCAL VOC format")
register_pascal_voc = left_out_function("register_pascal_voc", "the PASCAL VOC format")
