"""Placeholders for the panoptic version of COCO."""

from detectron2._left_out import left_out_function

__all__ = ["register_coco_panoptic", "register_coco_panoptic_separated"]

load_coco_panoptic_json = left_out_function("load_coco_panoptic_json", "panoptic segmentation")
register_coco_panoptic = left_out_function("register_coco_panoptic", "panoptic segmentation")
register_coco_panoptic_separated = left_out_function("register_coco_panoptic_separated", "panoptic segmentation")
merge_to_panoptic = left_out_function("merge_to_panoptic", "panoptic segmentation")
