"""Flow completion by a network that learns what is wrong with the observed flow (Sec. 5.4.2)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from ..clips import check_clip
from ..initialization import keep_scale
from ..regions import contour_band
from .harmonic import HOLE_MARGIN, harmonic_flow

STARTS = ("corrupted", "harmonic")


class _TwoConvolutions(nn.Sequential):
    def __init__(self, before: int, after: int, *, stride: int, slope: float):
        super().__init__(
            nn.Conv2d(before, after, 3, stride=stride, padding=1),
            nn.LeakyReLU(slope),
            nn.Conv2d(after, after, 3, padding=1),
            nn.LeakyReLU(slope),
        )


class ResidualUNet(nn.Module):
    """U-Net with skips whose last convolution starts at zero, so that what it adds starts as nothing.

    Each level has two 3x3 convolutions with LeakyReLU, the first of stride 2 on the way down; on the way up bilinear
    x2 comes before them, and the features of the same size from the way down are concatenated.

    Args:
        in_channels: of the input.
        out_channels: of the result.
        widths: channels of the levels, from full resolution down.
        slope: of LeakyReLU.
    """

    def __init__(
        self,
        *,
        in_channels: int = 11,
        out_channels: int = 2,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        slope: float = 0.2,
    ):
        super().__init__()
        widths = list(widths)
        self.down = nn.ModuleList([_TwoConvolutions(in_channels, widths[0], stride=1, slope=slope)])
        self.down.extend(_TwoConvolutions(*pair, stride=2, slope=slope) for pair in pairwise(widths))
        self.up = nn.ModuleList(
            _TwoConvolutions(below + beside, beside, stride=1, slope=slope) for beside, below in pairwise(widths)
        )
        keep_scale(self, slope)
        self.last = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.multiple = 2 ** (len(widths) - 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W), any size."""
        height, width = maps.shape[-2:]
        maps = F.pad(maps, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        skips = []
        for level in self.down:
            maps = level(maps)
            skips.append(maps)
        skips.pop()
        for level in reversed(self.up):
            maps = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
            maps = level(torch.cat([maps, skips.pop()], dim=1))
        return self.last(maps)[..., :height, :width]


class FlowCompletion(nn.Module):
    """Completes the flow of an object inside its complete mask: O = O_observed + phi(x) there, as observed elsewhere.

    x of the flow from frame a to frame b is (a, b, flow, visible mask of a, complete mask of a, contour of the
    complete mask of a); one network serves both directions, with the frames swapped.

    Args:
        network: of 11 input and 2 output channels.
        flow_scale: pixels that count as 1 for the network; None for 1/20 of the frames' longer side.
        contour_width: of the complete mask's outline, pixels.
        start: "corrupted", the observed flow, with the occluder's motion in it, as the paper's figure shows; or
            "harmonic", the weight-free completion (`harmonic_flow`), which takes that motion out.
        hole_margin: see `harmonic_flow`.

    Raises:
        ValueError: `start` is none of these.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        flow_scale: float | None = 20.0,
        contour_width: int = 3,
        start: str = "corrupted",
        hole_margin: int = HOLE_MARGIN,
    ):
        super().__init__()
        if start not in STARTS:
            raise ValueError(f"start={start!r}: one of {', '.join(STARTS)}")
        self.network = network
        self.flow_scale = flow_scale
        self.contour_width = contour_width
        self.start = start
        self.hole_margin = hole_margin

    def forward(
        self,
        frames: torch.Tensor,
        visible: torch.Tensor,
        complete: torch.Tensor,
        forward_flow: torch.Tensor,
        backward_flow: torch.Tensor,
        *,
        started: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Complete the flows of a clip.

        Args:
            frames: (B, T, 3, H, W) in [-1, 1], as observed.
            visible: (B, T, 1, H, W) float in {0, 1}.
            complete: (B, T, 1, H, W) float in {0, 1}.
            forward_flow: (B, T - 1, 2, H, W) observed flow, pixels.
            backward_flow: (B, T - 1, 2, H, W), the same in the other direction.
            started: the flows are what `start` makes of the observed ones already, as a data loader can do it.

        Returns:
            The completed forward and backward flow, float32; outside of the complete masks as given, bit for bit.

        Raises:
            InpaintingError: the parts do not fit each other.
        """
        check_clip(frames, visible=visible, complete=complete, forward_flow=forward_flow, backward_flow=backward_flow)
        if self.start == "harmonic" and not started:
            forward_flow, backward_flow = harmonic_flow(
                forward_flow, backward_flow, visible, complete, hole_margin=self.hole_margin
            )
        masks = torch.cat([visible, complete, contour_band(complete.float(), self.contour_width)], dim=2)
        return (
            self._direction(frames[:, :-1], frames[:, 1:], forward_flow, masks[:, :-1]),
            self._direction(frames[:, 1:], frames[:, :-1], backward_flow, masks[:, 1:]),
        )

    def _direction(
        self, source: torch.Tensor, target: torch.Tensor, flow: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        """Complete the flow (B, N, 2, H, W) from source to target frames; masks are of the source frames."""
        flow = flow.float()
        if flow.numel() == 0:
            return flow
        scale = max(flow.shape[-2:]) / 20 if self.flow_scale is None else self.flow_scale
        inputs = torch.cat([source.float(), target.float(), flow / scale, masks.float()], dim=2)
        residue = self.network(inputs.flatten(0, 1)).float().unflatten(0, flow.shape[:2])
        return torch.where(masks[:, :, 1:2] > 0.5, flow + scale * residue, flow)
