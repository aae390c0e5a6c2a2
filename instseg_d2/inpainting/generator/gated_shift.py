"""The occlusion-aware block: gated convolution over temporally shifted features (eq. 5.11-5.13, Fig. 5.8)."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ..initialization import keep_scale

GATES = ("occlusion", "occlusion_input", "plain", "none")


class OcclusionAwareBlock(nn.Module):
    """Temporal shift, convolution and ReLU, times a gate that knows where the object is hidden.

    gate = W_g * I + f(hole, complete) (eq. 5.11), S = W_f * TSM(I) (eq. 5.12), out = sigmoid(gate) ReLU(S) (eq. 5.13).
    The gate sees the features unshifted. f resizes the masks to the size of the gate by area and has two 3x3
    convolutions with LeakyReLU in between. The text says residual shift module, the equations show no identity: where
    input and output have the same shape it is added.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the feature and the gate convolution; 4 with stride 2, else odd.
        stride: of both.
        dilation: of both.
        scale: the input is enlarged so many times before, by nearest neighbour.
        shift: along time; None for none.
        gate: "occlusion", eq. 5.11; "occlusion_input", as the paper's figure draws it, f added to the gate
            convolution's input; "plain", W_g * I alone; "none", no gate.
        mask_channels: between the two convolutions of f.
        activation: of S.
        residual: add the input if the shapes agree.
        use_spectral_norm: on the feature and the gate convolution.
        slope: of LeakyReLU in f.

    Raises:
        ValueError: `gate` is none of these.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        scale: int = 1,
        shift: nn.Module | None = None,
        gate: str = "occlusion",
        mask_channels: int = 32,
        activation: nn.Module | None = None,
        residual: bool = True,
        use_spectral_norm: bool = False,
        slope: float = 0.2,
    ):
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate={gate!r}: one of {', '.join(GATES)}")

        self.feature, self.gate = (
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, dilation * (kernel_size - 1) // 2, dilation)
            for _ in range(2)
        )
        # The gate starts near one half, which takes enough already.
        keep_scale(self.feature, 0.0)
        if use_spectral_norm:
            self.feature, self.gate = spectral_norm(self.feature), spectral_norm(self.gate)
        if gate == "none":
            self.gate = None
        self.scale = scale
        self.shift = shift
        self.activation = nn.ReLU() if activation is None else activation
        self.masks_at_input = gate == "occlusion_input"
        self.mask_branch = None
        if gate.startswith("occlusion"):
            self.mask_branch = nn.Sequential(
                nn.Conv2d(2, mask_channels, 3, padding=1),
                nn.LeakyReLU(slope),
                nn.Conv2d(mask_channels, in_channels if self.masks_at_input else out_channels, 3, padding=1),
            )
        self.residual = residual and in_channels == out_channels and stride == scale == 1

    def forward(self, maps: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the block.

        Args:
            maps: (B, T, C, h, w).
            masks: (B, T, 2, H, W) float in [0, 1], of any size: the hole and the complete mask.

        Returns:
            (B, T, C', h', w'), and the gate of the same shape in (0, 1), None without one.
        """
        clips = maps.shape[:2]
        if self.scale > 1:
            maps = F.interpolate(maps.flatten(0, 1), scale_factor=self.scale).unflatten(0, clips)
        flat = maps.flatten(0, 1)
        shifted = flat if self.shift is None else self.shift(maps).flatten(0, 1)
        out, opening = self.activation(self.feature(shifted)), None
        if self.gate is not None:
            opening = self._gate(flat, masks.flatten(0, 1)).sigmoid()
            out = out * opening
            opening = opening.unflatten(0, clips)
        if self.residual:
            out = out + flat
        return out.unflatten(0, clips), opening

    def _gate(self, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Logits of the gate (eq. 5.11) of (N, C, h, w) maps and (N, 2, H, W) masks."""
        if self.mask_branch is None:
            return self.gate(maps)
        if self.masks_at_input:
            return self.gate(maps + self.mask_branch(_resized(masks, maps)))
        logits = self.gate(maps)
        return logits + self.mask_branch(_resized(masks, logits))


def _resized(masks: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if masks.shape[-2:] == like.shape[-2:]:
        return masks.to(like.dtype)
    return F.interpolate(masks.float(), like.shape[-2:], mode="area").to(like.dtype)
