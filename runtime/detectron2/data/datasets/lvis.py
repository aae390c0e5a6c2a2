"""Placeholders for LVIS."""

from detectron2._left_out import left_out_function

__all__ = ["load_lvis_json", "register_lvis_instances", "get_lvis_instances_meta"]

load_lvis_json = left_out_function("load_lvis_json", "LVIS")
register_lvis_instances = left_out_function("register_lvis_instances", "LVIS")
get_lvis_instances_meta = left_out_function("get_lvis_instances_meta", "LVIS")
