"""Perceptual and style loss, for those who have the weights of a classifier: nothing is downloaded."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import vgg16

from ..errors import InpaintingError


def vgg16_features(path: str | Path) -> nn.Sequential:
    """The convolutional part of torchvision's VGG16 with the weights of a file.

    Args:
        path: the state dict that torchvision publishes, vgg16-397923af.pth.

    Returns:
        `features` of the network, in evaluation mode.

    Raises:
        InpaintingError: the file is not there or holds something else.
    """
    with torch.device("meta"):
        model = vgg16(weights=None)
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    except FileNotFoundError as error:
        raise InpaintingError(f"{path}: no such file; the perceptual loss needs vgg16-397923af.pth there") from error
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise InpaintingError(f"{path}: not a state dict of torchvision's vgg16 ({error})") from error
    return model.features.eval()


class PerceptualLoss(nn.Module):
    """L1 between features of two clips and between their Gram matrices (arXiv:1603.08155), frame by frame.

    Off by default in the recipes: neither E2FGVI nor ProPainter trains with it. LGTSM (arXiv:1907.01131) has the
    weights below.

    Args:
        features: layers that are run one after another, frozen here, such as `vgg16_features(path)`.
        layers: indices of those whose outputs are compared; of VGG16 the last ReLU before each of the first three
            poolings.
        content_weight: of the features.
        style_weight: of the Gram matrices, each divided by its number of channels and pixels.
    """

    def __init__(
        self,
        *,
        features: nn.Sequential,
        layers: Sequence[int] = (3, 8, 15),
        content_weight: float = 1.0,
        style_weight: float = 10.0,
    ):
        super().__init__()
        self.layers = frozenset(layers)
        # In-place activations would overwrite what is compared.
        self.features = features[: max(self.layers) + 1].requires_grad_(False).eval()
        for module in self.features.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.content_weight = content_weight
        self.style_weight = style_weight
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, composed: torch.Tensor, clean_frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compare two clips (B, T, 3, H, W) in [-1, 1].

        Returns:
            `loss_inpaint_content` and `loss_inpaint_style`, float32 scalars.
        """
        with torch.no_grad():
            truths = self._outputs(clean_frames)
        pairs = list(zip(self._outputs(composed), truths, strict=True))
        content = sum(F.l1_loss(result.float(), truth.float()) for result, truth in pairs)
        style = sum(F.l1_loss(_gram(result), _gram(truth)) for result, truth in pairs)
        return {
            "loss_inpaint_content": self.content_weight * content,
            "loss_inpaint_style": self.style_weight * style,
        }

    def _outputs(self, clips: torch.Tensor) -> list[torch.Tensor]:
        maps = ((clips.flatten(0, 1) + 1) / 2 - self.mean) / self.std
        outputs = []
        for index, layer in enumerate(self.features):
            maps = layer(maps)
            if index in self.layers:
                outputs.append(maps)
        return outputs


def _gram(maps: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, C, C) float32 products of channels."""
    with torch.autocast(maps.device.type, enabled=False):
        flat = maps.float().flatten(2)
        return flat @ flat.transpose(1, 2) / flat[0].numel()
