"""The semantic head of AdelaiDet's "_sem" models, which learns the classes of pixels beside the masks."""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.meta_arch.condinst.branch import SemanticHead


def add_semantic_head(model):
    """Give a CondInst model a semantic head on P3, in place."""
    model.semantic_head = L(SemanticHead)(
        in_feature="p3",
        in_channels="${..detector.backbone.out_channels}",
        num_classes="${..detector.num_classes}",
    )
