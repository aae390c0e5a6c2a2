"""Clips to train the completion of hidden objects on: an eraser before the object, or behind it, and masks with errors.

The network must return what an eraser hides (case 1), and must not grow an object that hides the eraser (case 2), as in
PCNet (arXiv:2004.02788). Shown as grey alone, "grey" would come to mean "eraser".
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import DatasetError
from .appearance import GREY
from .exact import OccVideoTrack
from .keys import generator_of
from .mask_errors import MaskErrors, grown
from .voi import VOITrack

logger = logging.getLogger(__name__)

FILLS = ("pixels", "grey", "texture")


@dataclass(frozen=True, kw_only=True)
class Erasing:
    """How the object is hidden, and how wrong its visible mask is.

    Attributes:
        behind: chance of case 2: the object hides the eraser and is complete.
        fills: chances of showing the eraser as its own pixels, as grey, or as another frame of the set. The published
            masks come without pixels of occluders.
        clipped: show the eraser only where it hides the object, as the paper's pictures do.
        jitter: greatest number of pixels by which the visible masks of a clip are dilated or eroded.
        drop: chance that the visible mask of one frame of a clip is empty.
    """

    behind: float = 0.2
    fills: tuple[float, float, float] = (0.5, 0.25, 0.25)
    clipped: bool = False
    jitter: int = 0
    drop: float = 0.0

    def __post_init__(self):
        if len(self.fills) != 3 or min(self.fills) < 0 or not np.isclose(sum(self.fills), 1):
            raise ValueError(f"fills must be three chances that sum to 1, got {self.fills}")
        if not (0 <= self.behind <= 1 and 0 <= self.drop <= 1 and self.jitter >= 0):
            raise ValueError(f"behind and drop must be chances, jitter 0 or more, got {self}")


# What is seen of built occluders, in front, with exact masks: for the stages after shape completion.
AS_BUILT = Erasing(behind=0.0, fills=(1.0, 0.0, 0.0))
# The same without the colours of occluders: a grey hole in the object.
AS_PUBLISHED = Erasing(behind=0.0, fills=(0.0, 1.0, 0.0), clipped=True)
# For shape completion at 432 x 240.
SELF_SUPERVISED = Erasing(jitter=7, drop=0.05)


class InpaintingClips(Dataset):
    """Clips of T frames of hidden objects.

    An item is a dict:

    - `frames` (T, 3, H, W) float32 RGB in [-1, 1], as observed;
    - `clean` (T, 3, H, W), the same without the eraser;
    - `visible` (T, 1, H, W) float32 in {0, 1}, what is seen of the object, with the errors of `Erasing`;
    - `complete` (T, 1, H, W), the truth;
    - `hole` (T, 1, H, W), what the eraser hides of it; empty in case 2;
    - `eraser` (T, 1, H, W), in case 2 without the part that the object hides;
    - `class_index` () int64, -1 for an unknown category;
    - `case` () int64, 1 or 2;
    - with `flow`, `forward_flow` and `backward_flow` (T - 1, 2, H, W) float32 pixels, those of the clean frames.

    Args:
        tracks: of `read_voi` or `occvideo_tracks`; those shorter than a clip are left out.
        length: T.
        size: height and width of items, pixels; frames are averaged or interpolated, masks take the nearest pixel.
        erasing: see there.
        consecutive: chance that a clip is T frames in a row, not T of all frames in their order.
        flip: chance of a clip seen in a mirror.
        flow: also give the flow, which the tracks must have; needs `consecutive=1`.
        errors: of the visible masks beyond those of `erasing`, for tests of how much they matter; None for none.
        seed: the same item is the same each time; None draws anew, from torch's generator, which differs by worker.

    Raises:
        DatasetError: no track is as long as a clip.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        tracks: Sequence[VOITrack | OccVideoTrack],
        *,
        length: int = 5,
        size: tuple[int, int] = (240, 432),
        erasing: Erasing = SELF_SUPERVISED,
        consecutive: float = 0.5,
        flip: float = 0.5,
        flow: bool = False,
        errors: MaskErrors | None = None,
        seed: int | None = None,
    ):
        if length < 1 or min(size) < 1 or not (0 <= consecutive <= 1 and 0 <= flip <= 1) or (flow and consecutive < 1):
            raise ValueError(
                "length and size must be 1 or more, consecutive and flip chances, and flow needs consecutive=1; got "
                f"length={length}, size={tuple(size)}, consecutive={consecutive}, flip={flip}, flow={flow}"
            )
        self.tracks = [track for track in tracks if len(track) >= length]
        if not self.tracks:
            longest = max(map(len, tracks), default=0)
            raise DatasetError(
                f"none of {len(tracks)} tracks has {length} frames, the longest has {longest}; ask for shorter clips"
            )
        if len(self.tracks) < len(tracks):
            logger.info("%d of %d tracks are shorter than %d frames", len(tracks) - len(self), len(tracks), length)
        self.length = length
        self.size = tuple(size)
        self.erasing = erasing
        self.consecutive = consecutive
        self.flip = flip
        self.flow = flow
        self.errors = errors
        self.seed = seed

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        state = torch.randint(2**62, ()).item() if self.seed is None else self.seed
        rng = generator_of("clip", state, index)
        track = self.tracks[index]
        frames = self._draw_frames(rng, len(track))
        case = 2 if rng.random() < self.erasing.behind else 1
        planes = [self._show(track, frame, case) for frame in frames]
        images = {name: np.stack([plane[name] for plane in planes]) for name in planes[0]}
        images["frames"] = self._fill(rng, images)
        images["visible"] = _spoil(rng, images["visible"], self.erasing)
        if self.errors is not None:
            images["visible"] = self.errors(rng, images["visible"])
        mirrored = rng.random() < self.flip
        item = {name: _as_tensor(stack, mirrored) for name, stack in images.items()}
        if self.flow:
            item |= self._flows(track, frames, mirrored)
        item["class_index"] = torch.tensor(track.category_index)
        item["case"] = torch.tensor(case)
        return item

    def _draw_frames(self, rng: np.random.Generator, length: int) -> list[int]:
        if rng.random() < self.consecutive:
            start = int(rng.integers(length - self.length + 1))
            return list(range(start, start + self.length))
        return sorted(rng.choice(length, self.length, replace=False).tolist())

    def _show(self, track: VOITrack | OccVideoTrack, frame: int, case: int) -> dict[str, np.ndarray]:
        """Pictures and masks of one frame in the size of an item; `frames` has the eraser's own pixels."""
        masks = track.masks(frame)
        complete, eraser = masks["full_mask"], masks["occ_mask_full"]
        clean = track.clean(frame)
        needed = self.erasing.fills[FILLS.index("pixels")] > 0
        observed = track.observed(frame) if needed else clean
        if case == 1:
            hole = complete & eraser
        else:
            # The object comes to the front: its own pixels, complete.
            observed = np.where(complete[..., None], clean, observed)
            eraser, hole = eraser & ~complete, np.zeros_like(complete)
        shown = {"complete": complete, "eraser": eraser, "hole": hole, "visible": complete & ~hole}
        return {
            "frames": self._resized(observed),
            "clean": self._resized(clean),
            **{name: self._resized(mask) for name, mask in shown.items()},
        }

    def _resized(self, image: np.ndarray) -> np.ndarray:
        """An image or a mask in the size of an item."""
        height, width = self.size
        if image.shape[:2] == (height, width):
            return image
        if image.dtype == bool:
            return cv2.resize(image.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
        method = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_LINEAR
        return cv2.resize(image, (width, height), interpolation=method)

    def _fill(self, rng: np.random.Generator, images: dict[str, np.ndarray]) -> np.ndarray:
        """(T, H, W, 3) uint8: the frames with the eraser as it is drawn to be shown."""
        fill = FILLS[rng.choice(len(FILLS), p=list(self.erasing.fills))]
        shown = images["frames"]
        if fill == "pixels" and not self.erasing.clipped:
            # With the soft edge that an occluder may have beyond its mask.
            return shown
        if fill != "pixels":
            shown = np.uint8(GREY) if fill == "grey" else self._other_frame(rng)
        return np.where(images["hole" if self.erasing.clipped else "eraser"][..., None], shown, images["clean"])

    def _other_frame(self, rng: np.random.Generator) -> np.ndarray:
        track = self.tracks[rng.integers(len(self.tracks))]
        return self._resized(track.clean(int(rng.integers(len(track)))))

    def _flows(self, track: VOITrack | OccVideoTrack, frames: list[int], mirrored: bool) -> dict[str, torch.Tensor]:
        found = {}
        for direction, starts in (("forward", frames[:-1]), ("backward", frames[1:])):
            flows = [track.flow(frame, direction) for frame in starts]
            if any(flow is None for flow in flows):
                raise DatasetError(f"track {track.name} of {track.video} has no {direction} flow of its clean frames")
            stack = np.zeros((len(starts), *self.size, 2), dtype=np.float32)
            for place, flow in enumerate(flows):
                scale = np.array(self.size[::-1], dtype=np.float32) / flow.shape[1::-1]
                stack[place] = self._resized(flow) * scale * (-1 if mirrored else 1, 1)
            tensor = torch.from_numpy(stack).permute(0, 3, 1, 2)
            found[f"{direction}_flow"] = (tensor.flip(-1) if mirrored else tensor).contiguous()
        return found


def _spoil(rng: np.random.Generator, visible: np.ndarray, erasing: Erasing) -> np.ndarray:
    """(T, H, W) bool: visible masks as a segmentation gets them, too large or too small, perhaps missing once."""
    change = int(rng.integers(-erasing.jitter, erasing.jitter + 1))
    visible = np.stack([grown(mask, change) for mask in visible])
    lost, which = rng.random() < erasing.drop, int(rng.integers(len(visible)))
    # An object that is never seen cannot be completed.
    if lost and visible[np.arange(len(visible)) != which].any():
        visible = visible.copy()
        visible[which] = False
    return visible


def _as_tensor(stack: np.ndarray, mirrored: bool) -> torch.Tensor:
    """(T, C, H, W) float32: BGR of 8 bits as RGB in [-1, 1], masks as 0 and 1."""
    if stack.dtype == bool:
        tensor = torch.from_numpy(stack[:, None].astype(np.float32))
    else:
        tensor = torch.from_numpy(np.ascontiguousarray(stack[..., ::-1])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return (tensor.flip(-1) if mirrored else tensor).contiguous()
