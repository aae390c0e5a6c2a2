"""First weights of convolutions."""

from torch import nn


def keep_scale(module: nn.Module, slope: float) -> None:
    """Draw the weights of all convolutions so that each with its LeakyReLU keeps the scale of its input (He et al.).

    PyTorch's own are smaller: without a normalization little of the input is left after a few layers.

    Args:
        module: whose `Conv2d` are changed; their biases become 0.
        slope: of LeakyReLU, 0 for ReLU.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=slope)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
