"""The generator: an encoder-decoder of occlusion-aware blocks (Sec. 5.4.3, Fig. 5.7)."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..clips import check_clip
from ..windows import Window, blend, sliding_windows, stack_frames
from .gated_shift import OcclusionAwareBlock
from .shift import TemporalShift

GATE_MASKS = ("occlusion", "visible")


def compose(frames: torch.Tensor, prediction: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """Take the hole from the prediction and everything else from the frames, bit for bit.

    Args:
        frames: (..., C, H, W), any dtype.
        prediction: same shape and dtype.
        hole: (..., 1, H, W) in {0, 1}.

    Returns:
        A new tensor of the frames' shape and dtype.
    """
    return torch.where(hole > 0.5, prediction, frames)


class OcclusionAwareGenerator(nn.Module):
    """Paints the part of an object that propagation has left empty.

    LGTSM's layout: one block at full, two at half and three at a quarter of the resolution, four dilated ones, two
    more, then up again, two blocks at half and two at full resolution, and a convolution with tanh. What the frames
    show in the hole is set to mid-grey before the network sees them. Sizes that are no multiples of 4 are padded by
    repeating the border.

    Args:
        shift: along time, such as `TemporalShift()`, copied for every block; None for none.
        width: channels at full resolution; twice and four times as many at half and a quarter of it.
        dilations: of the blocks in the middle.
        shift_first: also in the first block, on colours and masks. By default these stay aligned.
        gate: see `OcclusionAwareBlock`.
        gate_masks: what f sees beside the complete mask: "occlusion", the hole (text), or "visible", the visible mask
            (figure).
        mask_channels: see `OcclusionAwareBlock`.
        residual: see `OcclusionAwareBlock`.
        skips: the outputs of both strided blocks are concatenated to what enters the way up from their resolution.
        gate_last: the last convolution is a block too, without activation, before tanh.
        use_spectral_norm: on the feature and gate convolutions.
        slope: of LeakyReLU in the mask branches.
        keep_aux: keep the gates of the latest call in `aux`: `gates`, one (B, T, h, w) float32 map a block, mean over
            channels.

    Raises:
        ValueError: `gate` or `gate_masks` has a value that it does not know.
    """

    def __init__(
        self,
        *,
        shift: TemporalShift | None,
        width: int = 64,
        dilations: Sequence[int] = (2, 4, 8, 16),
        shift_first: bool = False,
        gate: str = "occlusion",
        gate_masks: str = "occlusion",
        mask_channels: int = 32,
        residual: bool = True,
        skips: bool = False,
        gate_last: bool = False,
        use_spectral_norm: bool = False,
        slope: float = 0.2,
        keep_aux: bool = False,
    ):
        super().__init__()
        if gate_masks not in GATE_MASKS:
            raise ValueError(f"gate_masks={gate_masks!r}: one of {', '.join(GATE_MASKS)}")
        self.sees_hole = gate_masks == "occlusion"
        self.keep_aux = keep_aux
        self.aux: dict[str, list[torch.Tensor]] = {}
        options = {
            "gate": gate,
            "mask_channels": mask_channels,
            "residual": residual,
            "use_spectral_norm": use_spectral_norm,
            "slope": slope,
        }

        def block(before: int, after: int, *, shifted: bool = True, **layout: Any) -> OcclusionAwareBlock:
            moves = copy.deepcopy(shift) if shifted else None
            return OcclusionAwareBlock(in_channels=before, out_channels=after, shift=moves, **options, **layout)

        # Frame, complete mask and visible mask: 5 channels.
        full, half, quarter = width, 2 * width, 4 * width
        self.to_half = nn.ModuleList(
            [
                block(5, full, kernel_size=5, shifted=shift_first),
                block(full, half, kernel_size=4, stride=2),
            ]
        )
        self.to_quarter = nn.ModuleList([block(half, half), block(half, quarter, kernel_size=4, stride=2)])
        self.middle = nn.ModuleList(
            [
                *(block(quarter, quarter) for _ in range(2)),
                *(block(quarter, quarter, dilation=dilation) for dilation in dilations),
                *(block(quarter, quarter) for _ in range(2)),
            ]
        )
        doubled = 2 if skips else 1
        self.skips = skips
        self.up_to_half = nn.ModuleList([block(doubled * quarter, half, scale=2), block(half, half)])
        self.up_to_full = nn.ModuleList([block(doubled * half, full, scale=2), block(full, full // 2)])
        self.last = (
            block(full // 2, 3, activation=nn.Identity()) if gate_last else nn.Conv2d(full // 2, 3, 3, padding=1)
        )

    def forward(self, frames: torch.Tensor, visible: torch.Tensor, complete: torch.Tensor) -> torch.Tensor:
        """Paint all of a clip; see `compose` for what to take of it.

        Args:
            frames: (B, T, 3, H, W) in [-1, 1], with the propagated pixels in place.
            visible: (B, T, 1, H, W) float in {0, 1}, the visible mask after propagation: propagated pixels count.
            complete: (B, T, 1, H, W) float in {0, 1}.

        Returns:
            (B, T, 3, H, W) float32 in [-1, 1].

        Raises:
            InpaintingError: the parts do not fit each other.
        """
        check_clip(frames, visible=visible, complete=complete)
        height, width = frames.shape[-2:]
        hole = complete * (1 - visible)
        inputs = torch.cat([frames.masked_fill(hole > 0.5, 0.0), complete, visible], dim=2)
        inputs = _padded(inputs, 4)
        masks = _padded(torch.cat([hole if self.sees_hole else visible, complete], dim=2), 4)
        return self._paint(inputs, masks)[..., :height, :width]

    def _paint(self, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """(B, T, 5, H, W) inputs and (B, T, 2, H, W) masks to (B, T, 3, H, W), H and W multiples of 4."""
        gates: list[torch.Tensor] = []
        half = self._run(self.to_half, maps, masks, gates)
        quarter = self._run(self.to_quarter, half, masks, gates)
        maps = self._run(self.middle, quarter, masks, gates)
        maps = torch.cat([maps, quarter], dim=2) if self.skips else maps
        maps = self._run(self.up_to_half, maps, masks, gates)
        maps = torch.cat([maps, half], dim=2) if self.skips else maps
        maps = self._run(self.up_to_full, maps, masks, gates)
        if isinstance(self.last, OcclusionAwareBlock):
            maps = self._run([self.last], maps, masks, gates)
        else:
            maps = self.last(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
        self.aux = {"gates": gates} if self.keep_aux else {}
        return maps.float().tanh()

    def _run(
        self,
        blocks: Iterable[OcclusionAwareBlock],
        maps: torch.Tensor,
        masks: torch.Tensor,
        gates: list[torch.Tensor],
    ) -> torch.Tensor:
        for block in blocks:
            maps, gate = block(maps, masks)
            if self.keep_aux and gate is not None:
                gates.append(gate.detach().float().mean(dim=2))
        return maps

    @torch.no_grad()
    def fill(
        self,
        frames: torch.Tensor,
        visible: torch.Tensor,
        complete: torch.Tensor,
        *,
        hole: torch.Tensor | None = None,
        windows: Sequence[Window] | None = None,
    ) -> torch.Tensor:
        """Fill the hole of a clip of any length, in windows; overlapping windows are averaged.

        Args:
            frames: see `forward`.
            visible: see `forward`.
            complete: see `forward`.
            hole: (B, T, 1, H, W) in {0, 1}, pixels to take from the network; `complete * (1 - visible)` by default.
                The hole before propagation repaints what was propagated.
            windows: `sliding_windows(T)` by default; they must cover the clip.

        Returns:
            (B, T, 3, H, W) in the frames' dtype; outside of the hole equal to the frames bit for bit.

        Raises:
            InpaintingError: the parts do not fit each other, or the windows do not cover the clip.
        """
        check_clip(frames, visible=visible, complete=complete, hole=hole)
        length = frames.shape[1]
        painted = blend(
            sliding_windows(length) if windows is None else windows,
            lambda window: self(*(part[:, window.seen] for part in (frames, visible, complete))),
        )
        hole = complete * (1 - visible) if hole is None else hole
        return compose(frames, stack_frames(painted, length).to(frames.dtype), hole)


def _padded(clip: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the border below and to the right, so that both sides are multiples."""
    height, width = clip.shape[-2:]
    sides = (0, -width % multiple, 0, -height % multiple)
    return F.pad(clip.flatten(0, 1), sides, mode="replicate").unflatten(0, clip.shape[:2])
