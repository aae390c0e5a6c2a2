"""Registry of backbones, for configs that name theirs."""

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

from .backbone import Backbone

__all__ = ["BACKBONE_REGISTRY", "build_backbone"]

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = "Callables `(cfg, input_shape: ShapeSpec) -> Backbone`, by name."


def build_backbone(cfg, input_shape=None):
    """Build the backbone that `cfg.MODEL.BACKBONE.NAME` names.

    Args:
        cfg (CfgNode): the whole config.
        input_shape (ShapeSpec, optional): shape of the image; by default as many channels as
            `cfg.MODEL.PIXEL_MEAN` has values.

    Returns:
        Backbone
    """
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} built a {type(backbone)}, not a Backbone"
    return backbone
