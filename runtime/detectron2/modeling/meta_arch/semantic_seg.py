"""Names of semantic segmentation, which this runtime does not cover; the registry is real."""

from detectron2._left_out import left_out_class, left_out_function
from detectron2.utils.registry import Registry

from .build import META_ARCH_REGISTRY

__all__ = ["SEM_SEG_HEADS_REGISTRY", "SemSegFPNHead", "SemanticSegmentor", "build_sem_seg_head"]

SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
SEM_SEG_HEADS_REGISTRY.__doc__ = "Semantic segmentation heads by name."

SemanticSegmentor = left_out_class("SemanticSegmentor", "semantic segmentation")
SemSegFPNHead = left_out_class("SemSegFPNHead", "semantic segmentation")
build_sem_seg_head = left_out_function("build_sem_seg_head", "semantic segmentation")

META_ARCH_REGISTRY.register(SemanticSegmentor)
SEM_SEG_HEADS_REGISTRY.register(SemSegFPNHead)
