"""What a data loader adds to clips beside the training: observed and harmonic flow, and propagated pixels."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset

from instseg_d2.data.video_inpainting.clips import InpaintingClips

from ..flow.backends import FlowBackend
from ..flow.harmonic import HarmonicCompletion
from ..propagation import Propagator

Flows = tuple[torch.Tensor, torch.Tensor]
TRUTH, HARMONIC = "truth", "harmonic"


class NamedClips(Dataset):
    """`InpaintingClips` that say where they come from: items have a `file_name`, `<video>/<object>`.

    Args:
        names: of the data set, for reports.
        clips: the clips.
    """

    def __init__(self, *, names: str, clips: InpaintingClips):
        self.names = names
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        track = self.clips.tracks[index]
        return {**self.clips[index], "file_name": f"{track.video}/{track.name}"}


class ClipMapper:
    """Adds flow and propagated pixels to an item of `InpaintingClips`.

    - `observed_forward_flow`, `observed_backward_flow` (T - 1, 2, H, W): between the frames as observed;
    - `forward_flow`, `backward_flow`: between the clean frames, where the data do not give them: what to learn from;
    - with `harmonic`, `harmonic_forward_flow` and `harmonic_backward_flow`: the observed flow, completed so;
    - with `along`, `propagated_frames` (T, 3, H, W) and `propagated_visible` (T, 1, H, W), see `Propagation`.

    Args:
        flow: where flow comes from; None adds nothing.
        harmonic: for networks that start from the harmonic flow.
        along: the flow to propagate along: "truth", as stages after flow completion are trained; "harmonic"; or
            what completes the observed one, such as a trained `FlowCompletion`, called with (frames, visible, complete,
            forward_flow, backward_flow). None: nothing is propagated.
        propagator: None: `Propagator` with its defaults.

    Raises:
        ValueError: `along` is a word that it does not know, or nothing says where flow comes from.
    """

    def __init__(
        self,
        *,
        flow: FlowBackend | None = None,
        harmonic: bool = False,
        along: str | Callable[..., Flows] | None = None,
        propagator: Propagator | None = None,
    ):
        if isinstance(along, str) and along not in (TRUTH, HARMONIC):
            raise ValueError(f"along='{along}': '{TRUTH}', '{HARMONIC}', None or what completes flow")
        if flow is None and (harmonic or along is not None):
            raise ValueError("harmonic and along need flow: say where it comes from, such as DISFlow")
        self.flow = flow
        self.harmonic = harmonic
        self.along = along
        self.propagator = Propagator() if propagator is None else propagator

    @torch.no_grad()
    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Map one item, which stays as it is."""
        if self.flow is None:
            return item
        observed = self.flow.flows(item["frames"])
        item = item | _pair("observed_", observed)
        if "forward_flow" not in item:
            item |= _pair("", self.flow.flows(item["clean"]))
        if self.harmonic or self.along == HARMONIC:
            item |= _pair("harmonic_", self._complete(HarmonicCompletion(), item))
        if self.along is not None:
            parts = (item[name][None] for name in ("frames", "visible", "complete"))
            moved = self.propagator(*parts, *(flow[None] for flow in self._completed(item)))
            item |= {"propagated_frames": moved.frames[0], "propagated_visible": moved.visible[0]}
        return item

    def _completed(self, item: dict[str, Any]) -> Flows:
        if self.along == TRUTH:
            return item["forward_flow"], item["backward_flow"]
        if self.along == HARMONIC:
            return item["harmonic_forward_flow"], item["harmonic_backward_flow"]
        return self._complete(self.along, item)

    @staticmethod
    def _complete(completion: Callable[..., Flows], item: dict[str, Any]) -> Flows:
        names = ("frames", "visible", "complete", "observed_forward_flow", "observed_backward_flow")
        forward, backward = completion(*(item[name][None] for name in names))
        return forward[0], backward[0]


def _pair(prefix: str, flows: Flows) -> dict[str, torch.Tensor]:
    return dict(zip((f"{prefix}forward_flow", f"{prefix}backward_flow"), flows, strict=True))
