"""From a video and the masks of an object to the object as a whole, in memory that does not grow with the video.

Frames pass in runs that overlap. Of a run only the object's surroundings are worked on, at a bounded size. Each run is
completed for itself, so work can go on where it stopped. Every stage may be a trained network; what has none is done
without weights, which is a baseline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from .baseline import telea_fill
from .crops import Crop
from .errors import InpaintingError
from .flow.backends import FlowBackend, PairwiseFlow
from .flow.harmonic import HarmonicCompletion
from .propagation import Propagation, Propagator
from .runs import runs
from .shape.union import flow_aligned_union

# 432 x 240, the paper's.
WORKING_AREA = 432 * 240
# Pairs of frames that the flow network sees at a time: at full resolution its features take most memory.
_PAIRS_AT_ONCE = 8
BASELINE = "weight-free baseline"


@dataclass(frozen=True)
class ObjectFrame:
    """A frame of a video, and what is known of its object; all of the same height and width.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        visible: (H, W) bool, empty where the object is not seen.
        complete: (H, W) bool, the amodal mask; None to have it found. `visible` is added to it.
        occluders: (H, W) bool, where the object may be hidden; None if not known.
    """

    image: np.ndarray
    visible: np.ndarray
    complete: np.ndarray | None = None
    occluders: np.ndarray | None = None


@dataclass(frozen=True)
class CompletedFrame:
    """A frame with the object's hidden part filled in.

    Attributes:
        index: of the frame in its video.
        observed: (H, W, 3) uint8 BGR, the frame as it was.
        image: (H, W, 3) uint8 BGR: the object lies in front; equal to the input, bit by bit, outside of the hole.
        visible: (H, W) bool, as given.
        complete: (H, W) bool, contains `visible`; what it has more is the hole.
        from_past: (H, W) bool, pixels of the hole with colours of an earlier frame.
        from_future: (H, W) bool, the same of a later frame.
        painted: (H, W) bool, pixels of the hole whose colours are made up.
        left: (H, W) bool, pixels of the hole that are as before, as nothing of the object is known there.
        flows: (2, H, W) float32 pixels each, zero away from the object: `forward` leads from this frame to the next
            and `backward` from the next to this one, as observed; `completed_forward` and `completed_backward` are the
            same, completed, if anything is hidden. Empty unless asked for, and for the last frame.
    """

    index: int
    observed: np.ndarray
    image: np.ndarray
    visible: np.ndarray
    complete: np.ndarray
    from_past: np.ndarray
    from_future: np.ndarray
    painted: np.ndarray
    left: np.ndarray
    flows: dict[str, torch.Tensor] = field(default_factory=dict)

    def object_alone(self) -> np.ndarray:
        """(H, W, 4) uint8 BGRA: the complete object, transparent around it and where nothing is known of it."""
        known = self.complete & ~self.left
        return np.dstack([np.where(known[..., None], self.image, 0), np.where(known, np.uint8(255), np.uint8(0))])

    def counts(self) -> dict[str, int]:
        """Pixels: `visible`, `hidden`, and of these `propagated`, `made_up` and `left`."""
        regions = {
            "visible": self.visible,
            "hidden": self.complete & ~self.visible,
            "propagated": self.from_past | self.from_future,
            "made_up": self.painted,
            "left": self.left,
        }
        return {name: int(np.count_nonzero(region)) for name, region in regions.items()}


@dataclass(frozen=True)
class _Clip:
    """The surroundings of the object in the frames of a run, at working size; shapes as of `Sample`, with B = 1."""

    crop: Crop
    frames: torch.Tensor
    flows: tuple[torch.Tensor, torch.Tensor] | None


class VideoObjectInpainter:
    """Completes an object of a video: its shape, its motion, and its colours.

    Args:
        flow: where the observed flow comes from.
        shape: completes masks where no complete ones are given; None: the flow-aligned union, within occluders.
        flow_completion: called with (frames, visible, complete, forward_flow, backward_flow); None: harmonic.
        generator: paints what no frame shows; None: Telea's inpainting with the object's colours.
        propagator: None: `Propagator` with its defaults.
        use_flow: without it nothing is propagated, and the generator paints all.
        category: class index for the shape network; None if unknown.
        size: frames of a run. Nothing is propagated over more than that.
        margin: frames at both ends of a run that only serve the others.
        working_area: the most pixels of the object's surroundings that are worked on; larger ones are scaled down.
        expand: by how much of its sides the box around the object is enlarged; where the complete masks are to be
            found, twice as much.
        device: where the networks run.
        amp_dtype: the networks run under autocast with this type; None stays in fp32. Flow and propagation always do.
        keep_flows: fill in `CompletedFrame.flows`.

    Raises:
        InpaintingError: runs would be shorter than their margins.
    """

    def __init__(
        self,
        *,
        flow: FlowBackend,
        shape: nn.Module | None = None,
        flow_completion: nn.Module | None = None,
        generator: nn.Module | None = None,
        propagator: Propagator | None = None,
        use_flow: bool = True,
        category: int | None = None,
        size: int = 40,
        margin: int = 10,
        working_area: int = WORKING_AREA,
        expand: float = 0.3,
        device: str = "cpu",
        amp_dtype: torch.dtype | None = None,
        keep_flows: bool = False,
    ) -> None:
        if margin < 1 or size <= 2 * margin:
            raise InpaintingError(
                f"a run must be longer than its two margins of at least 1 frame, got size={size} and margin={margin}"
            )
        self.flow = flow
        self.shape, self.flow_completion, self.generator = (
            None if part is None else part.to(device).eval() for part in (shape, flow_completion, generator)
        )
        self.propagator = Propagator() if propagator is None else propagator
        self.use_flow = use_flow
        self.category = category
        self.size = size
        self.margin = margin
        self.working_area = working_area
        self.expand = expand
        self.device = torch.device(device)
        self.amp_dtype = amp_dtype
        self.keep_flows = keep_flows
        self._harmonic = HarmonicCompletion()

    def stages(self, *, complete_given: bool) -> dict[str, str]:
        """What does the work of each stage, in words; `BASELINE` is in those that have no trained network."""
        network = "trained network"
        if complete_given:
            shape = "given masks"
        else:
            shape = f"flow-aligned union within the occluders ({BASELINE})" if self.shape is None else network
        flow = f"harmonic ({BASELINE})" if self.flow_completion is None else network
        content = f"Telea ({BASELINE})" if self.generator is None else network
        return {
            "shape": shape,
            "flow": f"{self.flow.name}; completion: {flow}" if self.use_flow else "not used",
            "content": f"propagation, the rest by {content}" if self.use_flow else content,
        }

    @torch.no_grad()
    def process(
        self, frames: Iterable[ObjectFrame], is_finished: Callable[[int], bool] = lambda index: False
    ) -> Iterator[CompletedFrame]:
        """Complete a video; at most `size` of its frames are held.

        Args:
            frames: in order; they are read as needed.
            is_finished: of the index of a frame; runs whose frames all are finished are passed over.

        Yields:
            Frames in order. A frame does not depend on which ones were passed over.

        Raises:
            InpaintingError: sizes differ, complete masks are given for some frames alone, or there is no way to find
                them: no network and no occluders.
        """
        start = 0  # index of the run's first frame
        for run, wanted in runs(_checked(frames), size=self.size, margin=self.margin):
            if not all(is_finished(start + time) for time in wanted):
                yield from self._run(list(run), wanted, start)
            start += self.size - 2 * self.margin

    def _run(self, run: list[ObjectFrame], wanted: range, start: int) -> Iterator[CompletedFrame]:
        clip = self._cut(run, start)
        if clip is not None:
            run = self._with_complete(run, clip)
        # Where nothing is hidden, there is nothing to do.
        if clip is None or not any((one.complete & ~one.visible).any() for one in run):
            for time in wanted:
                yield replace(_as_it_was(run[time], start + time), flows=self._kept_flows(clip, None, run, time))
            return
        hole = clip.crop.cut_masks([one.complete & ~one.visible for one in run], self.device, any_pixel=True)[None]
        complete = clip.crop.cut_masks([one.complete for one in run], self.device)[None].maximum(hole)
        visible = complete * (1 - hole)
        completed = self._completed_flows(clip, visible, complete) if self.use_flow else None
        filled = self._fill(clip, visible, complete, completed)
        for time in wanted:
            done = self._put_back(run[time], start + time, clip.crop, filled, time)
            yield replace(done, flows=self._kept_flows(clip, completed, run, time))

    def _cut(self, run: list[ObjectFrame], start: int) -> _Clip | None:
        """The object's surroundings in a run; None if there is no object in it."""
        known = [one.visible if one.complete is None else one.complete | one.visible for one in run]
        union = np.logical_or.reduce(known)
        if not union.any():
            return None
        unknown = run[0].complete is None
        crop = Crop.around(union, expand=(2 if unknown else 1) * self.expand, area=self.working_area)
        frames = crop.cut_frames([one.image for one in run], self.device)
        needs_flow = self.use_flow or (unknown and self.shape is None)
        flows = self._flows(frames, crop, union.shape, start) if needs_flow else None
        return _Clip(crop, frames[None], flows)

    def _flows(self, frames: torch.Tensor, crop: Crop, size: tuple[int, int], start: int):
        """Forward and backward flow of the surroundings, (1, T - 1, 2, h, w) each."""
        if isinstance(self.flow, PairwiseFlow):
            forward, backward = self.flow.flows(frames, start)
            return forward[None], backward[None]
        # Flow that is not computed from these pixels is of whole frames; two of them at a time.
        pair = frames.new_zeros(1).expand(2, 3, *size)
        found = [self.flow.flows(pair, start + time) for time in range(len(frames) - 1)]
        none = frames.new_zeros(0, 2, crop.height, crop.width)
        return tuple(
            torch.cat([none, *(crop.cut_flow(flows[direction]) for flows in found)])[None] for direction in (0, 1)
        )

    def _with_complete(self, run: list[ObjectFrame], clip: _Clip) -> list[ObjectFrame]:
        """The run with complete masks, which contain the visible ones."""
        if run[0].complete is not None:
            return [replace(one, complete=one.complete | one.visible) for one in run]
        if self.shape is None and run[0].occluders is None:
            raise InpaintingError(
                "without a shape network the hidden part is found only within the occluders: give the complete masks, "
                "the occluders' masks, or a network"
            )
        visible = clip.crop.cut_masks([one.visible for one in run], self.device)[None]
        occluders = None
        if run[0].occluders is not None:
            occluders = clip.crop.cut_masks([one.occluders for one in run], self.device, any_pixel=True)[None]
        if self.shape is None:
            found = flow_aligned_union(visible, occluders, *clip.flows)
        else:
            classes = None if self.category is None else torch.tensor([self.category], device=self.device)
            with self._autocast():
                found = self.shape.complete(clip.frames, visible, classes, occluders)
        return [replace(one, complete=_grown(one, clip.crop, mask)) for one, mask in zip(run, found[0], strict=True)]

    def _completed_flows(self, clip: _Clip, visible: torch.Tensor, complete: torch.Tensor):
        flows = clip.flows
        if self.flow_completion is None:
            return self._harmonic(clip.frames, visible, complete, *flows)
        parts = []
        for first in range(0, flows[0].shape[1], _PAIRS_AT_ONCE):
            pairs, frames = slice(first, first + _PAIRS_AT_ONCE), slice(first, first + _PAIRS_AT_ONCE + 1)
            inputs = [part[:, frames] for part in (clip.frames, visible, complete)]
            with self._autocast():
                parts.append(self.flow_completion(*inputs, *(flow[:, pairs] for flow in flows)))
        return tuple(torch.cat(part, dim=1) for part in zip(*parts, strict=True)) if parts else flows

    def _fill(self, clip: _Clip, visible: torch.Tensor, complete: torch.Tensor, flows) -> dict[str, torch.Tensor]:
        """The clip with the hole filled and where its colours are from, at working size."""
        if flows is None:
            none = torch.zeros_like(visible)
            moved = Propagation(clip.frames, visible, complete - visible, none, none)
        else:
            moved = self.propagator(clip.frames, visible, complete, *flows)
        if self.generator is None:
            frames, painted = telea_fill(moved.frames, moved.visible, moved.hole)
        else:
            with self._autocast():
                frames, painted = self.generator.fill(moved.frames, moved.visible, complete), moved.hole
        left = moved.hole - painted
        parts = {"from_past": moved.from_past, "from_future": moved.from_future, "painted": painted, "left": left}
        return {"frames": frames, "known": complete - left, **parts}

    def _put_back(
        self, one: ObjectFrame, index: int, crop: Crop, filled: dict[str, torch.Tensor], time: int
    ) -> CompletedFrame:
        hole = one.complete & ~one.visible
        regions = {name: np.zeros_like(hole) for name in ("from_past", "from_future", "painted", "left")}
        for name, region in regions.items():
            region[crop.window] = crop.put_mask(filled[name][0, time]) & hole[crop.window]
        image = one.image.copy()
        taken = (hole & ~regions["left"])[crop.window]
        colours = crop.put_colours(filled["frames"][0, time], filled["known"][0, time])
        image[crop.window][taken] = colours[taken]
        return CompletedFrame(index, one.image, image, one.visible, one.complete, **regions)

    def _kept_flows(self, clip: _Clip | None, completed, run: list[ObjectFrame], time: int) -> dict[str, torch.Tensor]:
        if not (self.keep_flows and self.use_flow) or time == len(run) - 1:
            return {}
        size = run[time].visible.shape
        if clip is None:
            return {name: torch.zeros(2, *size) for name in ("forward", "backward")}
        named = dict(zip(("forward", "backward"), clip.flows, strict=True))
        if completed is not None:
            named |= dict(zip(("completed_forward", "completed_backward"), completed, strict=True))
        return {name: clip.crop.put_flow(flow[0, time : time + 1], size)[0] for name, flow in named.items()}

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)


def _grown(one: ObjectFrame, crop: Crop, mask: torch.Tensor) -> np.ndarray:
    """(H, W) bool: the visible mask, and what was found at working size, within the occluders if there are any."""
    complete = one.visible.copy()
    found = crop.put_mask(mask, smooth=True)
    complete[crop.window] |= found if one.occluders is None else found & one.occluders[crop.window]
    return complete


def _as_it_was(one: ObjectFrame, index: int) -> CompletedFrame:
    none = np.zeros_like(one.visible)
    complete = one.visible if one.complete is None else one.complete | one.visible
    return CompletedFrame(index, one.image, one.image, one.visible, complete, none, none, none, complete & ~one.visible)


def _checked(frames: Iterable[ObjectFrame]) -> Iterator[ObjectFrame]:
    """Refuse frames that do not fit the first one."""
    first = None
    for index, one in enumerate(frames):
        first = first or one
        size = first.image.shape[:2]
        for name in ("image", "visible", "complete", "occluders"):
            part = getattr(one, name)
            if (part is None) != (getattr(first, name) is None):
                raise InpaintingError(
                    f"some frames have the mask '{name}' and others, such as frame {index}, do not: give it for all "
                    "or for none"
                )
            if part is not None and part.shape[:2] != size:
                raise InpaintingError(
                    f"frame {index}: '{name}' is {part.shape[1]} x {part.shape[0]} px, the first frame "
                    f"{size[1]} x {size[0]} px: resize it (masks by nearest neighbour)"
                )
        yield one
