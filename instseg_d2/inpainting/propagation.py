"""Colours of an object's hidden part from frames that show it, found along the flow (VOIN, sec. 5.4; after FGVC).

Each hidden pixel is followed to the neighbouring frame, and on to further ones while it stays hidden. The positions are
composed to sub-pixel accuracy, and the colour is read once, at the end: nothing blurs. Only the object's own visible
pixels may be sources, which is the paper's restriction.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from .clips import away_from_hole, check_clip
from .flow.warp import is_inside, sample_at

# The working size of the paper, whose threshold of 5 px is for frames of this width.
WORKING_WIDTH = 432
# Pixels of cycle error by which the weight of a source falls to 1/e; FGVC's value.
_ERROR_SCALE = 0.1


@dataclass(frozen=True)
class _Trace:
    """Where the hidden pixels of one frame were found, in one direction of time; K pixels, in the order of `pixels`.

    Attributes:
        pixels: (K, 3) int64: clip, row, column.
        found: (K,) bool.
        time: (K,) int64, frame of the source.
        point: (K, 2) float32, the source's x and y.
        error: (K,) float32, the largest cycle error on the way, pixels.
    """

    pixels: torch.Tensor
    found: torch.Tensor
    time: torch.Tensor
    point: torch.Tensor
    error: torch.Tensor


@dataclass(frozen=True)
class Propagation:
    """A clip in which hidden pixels were filled from other frames.

    Attributes:
        frames: (B, T, 3, H, W); equal to the input, bit by bit, wherever nothing was filled.
        visible: (B, T, 1, H, W) float, the visible mask and all filled pixels: M' of the paper.
        hole: (B, T, 1, H, W) float, what is left for a generator.
        from_past: (B, T, 1, H, W) float, pixels whose colour, or a part of it, comes from an earlier frame.
        from_future: (B, T, 1, H, W) float, the same of a later frame.
    """

    frames: torch.Tensor
    visible: torch.Tensor
    hole: torch.Tensor
    from_past: torch.Tensor
    from_future: torch.Tensor

    @cached_property
    def filled(self) -> torch.Tensor:
        """(B, T, 1, H, W) float, the pixels that were filled."""
        return torch.maximum(self.from_past, self.from_future)

    def counts(self) -> dict[str, torch.Tensor]:
        """Pixels of each frame, (B, T) int64 each: `hidden`, `filled`, `from_past`, `from_future`, `left`."""
        masks = {
            "hidden": self.filled + self.hole,
            "filled": self.filled,
            "from_past": self.from_past,
            "from_future": self.from_future,
            "left": self.hole,
        }
        return {name: mask.sum(dim=(2, 3, 4)).long() for name, mask in masks.items()}


class Propagator:
    """Fill hidden pixels of an object along its completed flow.

    Args:
        max_cycle_error: a step is refused where the flow, there and back, misses its start by this much or more;
            pixels at `reference_width`. The paper's 5.
        reference_width: the threshold scales with the longer side of the frames over this; None: it never scales.
        fusion: `weighted` blends what the past and the future offer by exp(-error / 0.1 px); `nearest` takes the one
            that is nearer in time, and blends where both are equally near.
        source_margin: visible pixels so near to the hole, in pixels, are no sources: they mix both objects' colours.
        max_age: how many frames a source may be away; None: any number.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        max_cycle_error: float = 5.0,
        reference_width: int | None = WORKING_WIDTH,
        fusion: str = "weighted",
        source_margin: int = 1,
        max_age: int | None = None,
    ):
        if fusion not in ("weighted", "nearest"):
            raise ValueError(f"fusion must be 'weighted' or 'nearest', got '{fusion}'")
        if max_cycle_error <= 0 or source_margin < 0 or (max_age is not None and max_age < 1):
            raise ValueError(
                "max_cycle_error and max_age must be above 0, source_margin 0 or more; "
                f"got {max_cycle_error}, {max_age}, {source_margin}"
            )
        self.max_cycle_error = max_cycle_error
        self.reference_width = reference_width
        self.fusion = fusion
        self.source_margin = source_margin
        self.max_age = max_age

    @torch.no_grad()
    def __call__(
        self,
        frames: torch.Tensor,
        visible: torch.Tensor,
        complete: torch.Tensor,
        forward_flow: torch.Tensor,
        backward_flow: torch.Tensor,
    ) -> Propagation:
        """Propagate both ways through a clip.

        Args:
            frames: (B, T, 3, H, W) float; colours of any range.
            visible: (B, T, 1, H, W) float in {0, 1}.
            complete: (B, T, 1, H, W) float in {0, 1}; it is extended by `visible`.
            forward_flow: (B, T - 1, 2, H, W) pixels, from each frame to the next; completed in the hidden part.
            backward_flow: (B, T - 1, 2, H, W) pixels, from each frame to the one before.

        Raises:
            InpaintingError: the shapes do not fit.
        """
        check_clip(frames, visible=visible, complete=complete, forward_flow=forward_flow, backward_flow=backward_flow)
        with torch.autocast(frames.device.type, enabled=False):
            clip = _Clip.prepare(frames, visible, complete, self.source_margin)
            flows = forward_flow.float(), backward_flow.float()
            past = self._trace(clip, flows[1], flows[0], step=1)
            future = self._trace(clip, flows[0], flows[1], step=-1)
            return self._fill(clip, past, future)

    def _limit(self, height: int, width: int) -> float:
        scale = 1.0 if self.reference_width is None else max(height, width) / self.reference_width
        return self.max_cycle_error * scale

    def _trace(self, clip: "_Clip", flow: torch.Tensor, reverse: torch.Tensor, step: int) -> list[_Trace]:
        """Sources of all frames' wanted pixels in the direction of time from which they come; one `_Trace` a frame.

        Args:
            clip: what is wanted and what may be a source.
            flow: (B, T - 1, 2, H, W), leads from a frame to the one that was handled before it.
            reverse: (B, T - 1, 2, H, W), the same pairs of frames the other way.
            step: 1 with sources in the past, -1 in the future.
        """
        length = clip.frames.shape[1]
        order = range(length) if step == 1 else range(length - 1, -1, -1)
        traces: dict[int, _Trace] = {}
        chain = _Chain(clip)
        for frame in order:
            before = frame - step
            if 0 <= before < length:
                pair = min(frame, before)
                found = self._look_back(clip, chain, frame, before, flow[:, pair], reverse[:, pair])
            else:
                found = _nothing(clip.wanted[frame])
            traces[frame] = found
            chain.store(found)
        return [traces[frame] for frame in range(length)]

    def _look_back(self, clip, chain, frame: int, before: int, flow: torch.Tensor, reverse: torch.Tensor) -> _Trace:
        """One step: where the wanted pixels of `frame` lie in the frame `before`, and what that knows of them."""
        pixels = clip.wanted[frame]
        item, row, column = pixels.unbind(dim=1)
        height, width = flow.shape[-2:]
        start = torch.stack([column, row], dim=1).float()
        # A flow that is no number leads nowhere, which is outside.
        point = torch.nan_to_num(start + flow[item, :, row, column], nan=-1.0)
        inside = is_inside(point, height, width)[:, 0]
        # Points outside are refused below; looking them up at the border keeps the indices valid.
        point = point.clamp(min=0).minimum(point.new_tensor([width - 1, height - 1]))
        error = torch.hypot(*(point + sample_at(reverse, item, point) - start).unbind(dim=1))
        near = point.round().long()
        x, y = near.unbind(dim=1)
        direct = clip.sources[item, before, 0, y, x]
        known, time, origin, worst = chain.look_up(item, y, x)
        time = torch.where(direct, before, time)
        origin = torch.where(direct[:, None], point, origin + (point - near))
        worst = torch.where(direct, error, torch.maximum(error, worst))
        origin, lands = clip.lands_on_source(item, time, origin)
        accepted = inside & (error < self._limit(height, width)) & lands & (direct | known)
        if self.max_age is not None:
            accepted &= (time - frame).abs() <= self.max_age
        return _Trace(pixels, accepted, time, origin, worst)

    def _fill(self, clip: "_Clip", past: list[_Trace], future: list[_Trace]) -> Propagation:
        frames = clip.frames.clone()
        from_past, from_future = torch.zeros_like(clip.visible), torch.zeros_like(clip.visible)
        for frame, (earlier, later) in enumerate(zip(past, future, strict=True)):
            item, row, column = earlier.pixels.unbind(dim=1)
            wanted = clip.hole[item, frame, 0, row, column] > 0
            share = self._share(frame, earlier, later)
            colour = share * clip.colour(item, earlier) + (1 - share) * clip.colour(item, later)
            filled = wanted & (earlier.found | later.found)
            at = item[filled], frame, slice(None), row[filled], column[filled]
            frames[at] = colour[filled].to(frames.dtype)
            from_past[item, frame, 0, row, column] = (wanted & (share[:, 0] > 0)).to(from_past.dtype)
            from_future[item, frame, 0, row, column] = (wanted & later.found & (share[:, 0] < 1)).to(from_past.dtype)
        filled = torch.maximum(from_past, from_future)
        return Propagation(frames, clip.visible + filled, clip.hole - filled, from_past, from_future)

    def _share(self, frame: int, past: _Trace, future: _Trace) -> torch.Tensor:
        """What the past counts for, (K, 1) in [0, 1]; the future counts for the rest."""
        # exp(-a / s) / (exp(-a / s) + exp(-b / s)), which cannot underflow in this form.
        share = torch.sigmoid((future.error - past.error) / _ERROR_SCALE)
        if self.fusion == "nearest":
            later, earlier = (future.time - frame).abs(), (past.time - frame).abs()
            share = torch.where(earlier == later, share, (earlier < later).to(share.dtype))
        share = torch.where(past.found & future.found, share, past.found.to(share.dtype))
        return share[:, None]


@dataclass(frozen=True)
class _Clip:
    """A clip as the propagation needs it.

    Attributes:
        frames: (B, T, 3, H, W).
        visible: (B, T, 1, H, W) float.
        hole: (B, T, 1, H, W) float, the pixels to fill.
        sources: (B, T, 1, H, W) bool, the pixels whose colours may be taken.
        wanted: a list of T tensors (K, 3) int64, the clip, row and column of pixels that are followed: the hole and,
            since chains pass through them, the visible pixels that are no sources.
    """

    frames: torch.Tensor
    visible: torch.Tensor
    hole: torch.Tensor
    sources: torch.Tensor
    wanted: list[torch.Tensor]

    @classmethod
    def prepare(cls, frames, visible: torch.Tensor, complete: torch.Tensor, margin: int) -> "_Clip":
        visible = (visible > 0.5).float()
        complete = torch.maximum((complete > 0.5).float(), visible)
        sources = away_from_hole(visible, complete, margin) > 0
        wanted = (complete > 0) & ~sources
        listed = [wanted[:, time, 0].nonzero() for time in range(frames.shape[1])]
        return cls(frames, visible, complete - visible, sources, listed)

    def lands_on_source(self, item, time, point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (K, 2), moved into the image, and whether the pixel that each rounds to may be a source."""
        height, width = self.frames.shape[-2:]
        x, y = point.round().long().unbind(dim=1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
        point = point.clamp(min=0).minimum(point.new_tensor([width - 1, height - 1]))
        return point, inside & self.sources[item, time, 0, y, x]

    def colour(self, item: torch.Tensor, trace: _Trace) -> torch.Tensor:
        """(K, 3) float32: the colours at the sources, from sources' pixels alone; 0 where nothing was found."""
        length = self.frames.shape[1]
        colour = torch.zeros(len(item), self.frames.shape[2], device=self.frames.device)
        found = trace.found
        image = item[found] * length + trace.time[found]
        colour[found] = sample_at(self.frames.flatten(0, 1), image, trace.point[found], self.sources.flatten(0, 1))
        return colour


def _nothing(pixels: torch.Tensor) -> _Trace:
    count, device = len(pixels), pixels.device
    return _Trace(
        pixels,
        found=torch.zeros(count, dtype=torch.bool, device=device),
        time=torch.zeros(count, dtype=torch.long, device=device),
        point=torch.zeros(count, 2, device=device),
        error=torch.zeros(count, device=device),
    )


class _Chain:
    """What the frame handled last knows of its wanted pixels, spread over the image to be looked up."""

    def __init__(self, clip: _Clip):
        batch, _, _, height, width = clip.frames.shape
        device = clip.frames.device
        self.row = torch.full((batch, height, width), -1, device=device)
        self.trace: _Trace | None = None

    def store(self, trace: _Trace) -> None:
        """Take a frame's sources in place of those of the frame before."""
        self.row.fill_(-1)
        self.row[tuple(trace.pixels.unbind(dim=1))] = torch.arange(len(trace.pixels), device=self.row.device)
        self.trace = trace

    def look_up(self, item: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Whether a source is known for each pixel, and its time, point and error: (K,), (K,), (K, 2), (K,)."""
        row = self.row[item, y, x]
        trace = self.trace
        if not len(trace.pixels):
            empty = _nothing(item)
            return empty.found, empty.time, empty.point, empty.error
        at = row.clamp(min=0)
        return (row >= 0) & trace.found[at], trace.time[at], trace.point[at], trace.error[at]
