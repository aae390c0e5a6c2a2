"""Variants of the ResNet under an FPN or BiFPN."""

from instseg_d2.modeling.backbones.resnet import resnet_dcn_stages


def use_resnet101(backbone, train):
    """Make the ResNet deeper and start from the weights of that depth, in place."""
    backbone.bottom_up.stages.depth = 101
    train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"


def use_dcn(backbone, *, interval):
    """Make every `interval`-th block of res3 to res5 deformable, of the second version, in place."""
    backbone.bottom_up.stages.update(_target_=resnet_dcn_stages, deform_modulated=True, deform_interval=interval)
