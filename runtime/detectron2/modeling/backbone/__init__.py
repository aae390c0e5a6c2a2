"""Backbones: the interface, the registry, ResNet, FPN and Swin."""

from detectron2._left_out import left_out_class, left_out_function

from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN
from .resnet import BasicStem, BottleneckBlock, ResNet, ResNetBlockBase, build_resnet_backbone, make_stage
from .swin import SwinTransformer

MViT = left_out_class("MViT", "the MViT backbone")
RegNet = left_out_class("RegNet", "the RegNet backbone")
SimpleFeaturePyramid = left_out_class("SimpleFeaturePyramid", "the ViT backbone")
ViT = left_out_class("ViT", "the ViT backbone")
get_vit_lr_decay_rate = left_out_function("get_vit_lr_decay_rate", "the ViT backbone")

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "BasicStem",
    "BottleneckBlock",
    "FPN",
    "MViT",
    "RegNet",
    "ResNet",
    "ResNetBlockBase",
    "SimpleFeaturePyramid",
    "SwinTransformer",
    "ViT",
    "build_backbone",
    "build_resnet_backbone",
    "get_vit_lr_decay_rate",
    "make_stage",
]
