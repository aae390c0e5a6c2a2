"""PEP as its equations are printed."""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.meta_arch.pep.model import LITERAL
from instseg_d2.modeling.meta_arch.pep.masks import LevelFeatures


def use_equations(model):
    """Dense maps, softmax over all pixels of the masks, a general feature a level, cross entropies; in place."""
    model.merge_with(LITERAL)
    model.mask_branch = L(LevelFeatures)(
        input_shape=model.head.input_shape, conv_dims=model.head.conv_dims, norm=model.head.norm
    )
    model.mask_in_features = model.head_in_features
    model.min_mask_areas = [shape.stride for shape in model.head.input_shape]
