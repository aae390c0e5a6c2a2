"""Names of panoptic segmentation, which this runtime does not cover."""

from detectron2._left_out import left_out_class, left_out_function

from .build import META_ARCH_REGISTRY

__all__ = ["PanopticFPN", "combine_semantic_and_instance_outputs"]

PanopticFPN = left_out_class("PanopticFPN", "panoptic segmentation")
combine_semantic_and_instance_outputs = left_out_function(
    "combine_semantic_and_instance_outputs", "panoptic segmentation"
)

META_ARCH_REGISTRY.register(PanopticFPN)
