"""Swin Transformers (arXiv:2103.14030) in the place of a ResNet: `use_swin(model.backbone, swin_b)`.

Their stages are p0 to p3 where a ResNet's are res2 to res5; behind the FPN the names are the same.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import SwinTransformer

swin_b = L(SwinTransformer)(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], drop_path_rate=0.4)

# For images of 128 px: windows of 4 tokens fit all four maps (32, 16, 8 and 4 tokens wide).
swin_narrow = L(SwinTransformer)(
    embed_dim=32, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], window_size=4, drop_path_rate=0.1
)


def use_swin(fpn, swin, stages=(0, 1, 2, 3)):
    """Put a Swin Transformer under an FPN that takes these of its four stages, in place."""
    # Norms of stages that nothing takes would be parameters without gradient.
    swin.out_indices = list(stages)
    fpn.update(bottom_up=swin, in_features=[f"p{stage}" for stage in stages])
