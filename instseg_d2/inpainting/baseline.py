"""Object inpainting without any trained network: a baseline, and what runs where no checkpoint is at hand.

Shape: given, or a flow-aligned union. Flow: harmonic. Colours: propagated, and Telea's inpainting (2004) for the rest.
"""

from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np
import torch

from .clips import check_clip, from_bytes, to_bytes
from .errors import InpaintingError
from .flow.backends import FlowBackend
from .flow.harmonic import HarmonicCompletion
from .propagation import Propagator
from .runs import runs
from .samples import Completion, Sample
from .shape.union import flow_aligned_union


def telea_fill(
    frames: torch.Tensor, known: torch.Tensor, hole: torch.Tensor, *, radius: float = 3.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Continue the object's own colours into a hole, each frame for itself (OpenCV's `INPAINT_TELEA`).

    Args:
        frames: (B, T, 3, H, W) float RGB in [-1, 1].
        known: (B, T, 1, H, W) float in {0, 1}: the only pixels that colours are taken from.
        hole: (B, T, 1, H, W) float in {0, 1}.
        radius: of the neighbourhood that a pixel's colour is made from, pixels.

    Returns:
        The frames, of which only pixels of the hole differ, and (B, T, 1, H, W) float, the pixels that were painted:
        all of the hole, except in frames without a known pixel.
    """
    frames = frames.clone()
    painted = torch.zeros_like(hole)
    for item, time in (hole.flatten(2).any(dim=2) & known.flatten(2).any(dim=2)).nonzero().tolist():
        inside, source = (mask[item, time, 0].cpu().numpy() > 0.5 for mask in (hole, known))
        window = _window(inside | source)
        image = to_bytes(frames[item, time]).permute(1, 2, 0).cpu().numpy()[window]
        # All that is not the object is to be painted too, so that it cannot bleed in; it is thrown away after.
        result = cv2.inpaint(
            np.ascontiguousarray(image), 1 - source[window].astype(np.uint8), radius, cv2.INPAINT_TELEA
        )
        part = inside[window]
        colours = from_bytes(torch.from_numpy(result[part])).to(frames)
        frames[item, time][(slice(None), *window)][:, torch.from_numpy(part)] = colours.T
        painted[item, time] = hole[item, time]
    return frames, painted


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The box of a mask and one pixel around it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.s_[max(rows[0] - 1, 0) : rows[-1] + 2, max(columns[0] - 1, 0) : columns[-1] + 2]


class WeightFreeInpainter:
    """Complete an object in a clip, or in a video of any length.

    Args:
        flow: where the observed flow comes from.
        complete_flow: called with (frames, visible, complete, forward_flow, backward_flow), gives both completed flows.
            None: `HarmonicCompletion`.
        propagator: None: `Propagator` with its defaults.
        radius: see `telea_fill`.
    """

    def __init__(
        self,
        *,
        flow: FlowBackend,
        complete_flow: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None,
        propagator: Propagator | None = None,
        radius: float = 3.0,
    ):
        self.flow = flow
        self.complete_flow = HarmonicCompletion() if complete_flow is None else complete_flow
        self.propagator = Propagator() if propagator is None else propagator
        self.radius = radius

    @torch.no_grad()
    def __call__(
        self,
        frames: torch.Tensor,
        visible: torch.Tensor,
        complete: torch.Tensor | None = None,
        occluders: torch.Tensor | None = None,
    ) -> Completion:
        """Complete clips as a whole.

        Args:
            frames: (B, T, 3, H, W) float RGB in [-1, 1], each clip from the first frame of its video on.
            visible: (B, T, 1, H, W) float in {0, 1}.
            complete: (B, T, 1, H, W) float in {0, 1}; None: the flow-aligned union within `occluders`.
            occluders: (B, T, 1, H, W) float in {0, 1}.

        Raises:
            InpaintingError: neither `complete` nor `occluders` is given, or shapes do not fit.
        """
        check_clip(frames, visible=visible, complete=complete, occluders=occluders)
        flows = [self.flow.flows(clip) for clip in frames]
        forward, backward = (torch.stack(flow) for flow in zip(*flows, strict=True))
        return self._complete(frames, visible, complete, occluders, forward, backward)

    @torch.no_grad()
    def stream(self, samples: Iterable[Sample], *, size: int = 40, margin: int = 10) -> Iterator[Completion]:
        """Complete a video frame by frame; memory depends on `size`, not on the video's length.

        Args:
            samples: the video's frames in order; they are read as needed.
            size: frames that are held at a time. Nothing is propagated over more than that.
            margin: frames of the next run that are seen ahead, and of the last one that are kept.

        Yields:
            Every frame in order, without the axes B and T.

        Raises:
            InpaintingError: see `__call__`.
        """
        for run, wanted in runs(self._with_flow(samples), size=size, margin=margin):
            clip = [sample for sample, _ in run]
            frames, visible = (torch.stack([getattr(s, name) for s in clip])[None] for name in ("frame", "visible"))
            complete, occluders = (_stacked(clip, name) for name in ("complete", "occluders"))
            # The flow that came with a frame leads to it and from it to the one before.
            forward, backward = (torch.stack([flow[n] for _, flow in run])[None, 1:] for n in (0, 1))
            done = self._complete(frames, visible, complete, occluders, forward, backward)
            for time in wanted:
                yield done.frame(time)

    def _with_flow(self, samples: Iterable[Sample]) -> Iterator[tuple[Sample, tuple[torch.Tensor, torch.Tensor]]]:
        """Each sample with the flow from the frame before to it, and back; the first one with zeros."""
        before = None
        for number, sample in enumerate(samples):
            if before is None:
                nothing = sample.frame.new_zeros(2, *sample.frame.shape[-2:], dtype=torch.float32)
                yield sample, (nothing, nothing)
            elif before.frame.shape != sample.frame.shape:
                raise InpaintingError(
                    f"frame {number} is {tuple(sample.frame.shape[-2:])} px (H, W), those before it are "
                    f"{tuple(before.frame.shape[-2:])} px: give frames of one size"
                )
            else:
                forward, backward = self.flow.flows(torch.stack([before.frame, sample.frame]), start=number - 1)
                yield sample, (forward[0], backward[0])
            before = sample

    def _complete(self, frames, visible, complete, occluders, forward, backward) -> Completion:
        check_clip(frames, visible=visible, complete=complete, occluders=occluders)
        visible = (visible > 0.5).float()
        if complete is None:
            if occluders is None:
                raise InpaintingError(
                    "without a network the hidden part is found only within the occluders: give the complete masks, or "
                    "the occluders' masks"
                )
            complete = flow_aligned_union(visible, occluders, forward, backward)
        complete = torch.maximum((complete > 0.5).float(), visible)
        flows = self.complete_flow(frames, visible, complete, forward, backward)
        moved = self.propagator(frames, visible, complete, *flows)
        result, painted = telea_fill(moved.frames, moved.visible, moved.hole, radius=self.radius)
        return Completion(
            frames=result,
            visible=visible,
            complete=complete,
            from_past=moved.from_past,
            from_future=moved.from_future,
            painted=painted,
            left=moved.hole - painted,
        )


def _stacked(clip: list[Sample], name: str) -> torch.Tensor | None:
    """(1, T, 1, H, W): a part of all samples; None if none has it."""
    parts = [getattr(sample, name) for sample in clip]
    if all(part is None for part in parts):
        return None
    if any(part is None for part in parts):
        raise InpaintingError(f"some frames have the mask '{name}' and others do not: give it for all or for none")
    return torch.stack(parts)[None]
