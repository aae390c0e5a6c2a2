"""Everything that a model's mask heads can show of a prediction, for pictures."""

from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from torch import nn

from instseg_d2.modeling.mask_heads.base import MaskHead


def keep_auxiliary_maps(model: nn.Module) -> list[str]:
    """Have mask heads attach all their maps to predictions from now on, beside the masks, in place.

    Each mask head attaches `pred_soft_masks`, the (N, 1, M, M) probabilities that the masks are made of by pasting and
    a threshold; a head with `keep_aux` attaches its further maps, such as `pred_thresholds`.

    Args:
        model: any; its masks do not change.

    Returns:
        names of the modules with `keep_aux`, that is, with further maps; none for a plain Mask R-CNN.
    """
    for module in model.modules():
        if isinstance(module, (MaskHead, BaseMaskRCNNHead)):
            module.register_forward_hook(_keep_soft_masks)
    names = [name for name, module in model.named_modules() if hasattr(module, "keep_aux")]
    for name in names:
        model.get_submodule(name).keep_aux = True
    return names


def _keep_soft_masks(module: nn.Module, inputs: tuple, output: object) -> None:
    if not module.training:
        for instances in output:
            instances.pred_soft_masks = instances.pred_masks
