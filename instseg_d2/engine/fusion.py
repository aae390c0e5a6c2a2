"""A trained model made faster to run: norms folded into convolutions, channels innermost where that pays."""

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Of R-CNNs, and of detectors with a mask head behind them.
_CONVOLUTIONAL = ("backbone", "roi_heads.mask_head", "detector.backbone", "mask_head")


def _is_constant(norm: nn.Module | None) -> bool:
    """Whether a norm is a fixed affine map in evaluation mode."""
    return isinstance(norm, FrozenBatchNorm2d) or (isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats)


@torch.no_grad()
def fuse_for_inference(model: nn.Module) -> nn.Module:
    """Prepare a model for inference only, in place.

    Every (Frozen)BatchNorm2d behind a detectron2 convolution is folded into its weights. On the CPU, backbone
    and mask head then compute with channels innermost, which convolutions like better there; the
    backbone returns its features in the usual order. Outputs change by rounding only; the state dict loses the norms,
    so load weights before and save none after.

    Args:
        model: with its weights loaded, on the device it will run on; it is put into evaluation mode.

    Returns:
        The same model.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, Conv2d) and _is_constant(module.norm):
            norm = module.norm
            module.weight, module.bias = fuse_conv_bn_weights(
                module.weight, module.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            module.norm = None
    if all(parameter.device.type == "cpu" for parameter in model.parameters()):
        parts = dict(model.named_modules())
        for name in _CONVOLUTIONAL:
            if name in parts:
                parts[name].to(memory_format=torch.channels_last)
                if name.endswith("backbone"):
                    parts[name].register_forward_hook(_usual_order)
    return model


def _usual_order(module: nn.Module, inputs: tuple, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # RoIAlign would otherwise copy every level again each time it is called.
    return {name: feature.contiguous() for name, feature in features.items()}
