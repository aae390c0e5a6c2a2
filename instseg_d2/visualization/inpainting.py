"""Pictures of a completed object: where its colours come from, its flow before and after, and film strips of both."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from instseg_d2.data.synthetic.film_strip import flow_picture
from instseg_d2.inpainting.clips import as_images
from instseg_d2.inpainting.samples import Completion

from .panels import faded
from .sheet import tile
from .text import line_height, write

# BGR. Yellow and blue are the paper's, for tracked and generated pixels.
ORIGINS = {
    "from past": (60, 230, 250),
    "from both": (40, 160, 250),
    "from future": (200, 120, 250),
    "made up": (240, 110, 40),
    "unknown": (40, 40, 220),
}
_TEXT = 13
_MARGIN = 0.15


def _outline(picture: np.ndarray, mask: torch.Tensor, colour: tuple[int, int, int]) -> None:
    """Draw the outline of a mask (1, H, W) over a picture of its size, in place."""
    contours, _ = cv2.findContours(
        (mask[0] > 0.5).cpu().numpy().astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(picture, contours, -1, colour, 1)


def draw_origins(done: Completion, time: int, *, clip: int = 0) -> np.ndarray:
    """Tint each pixel of the hole by where its colour comes from (`ORIGINS`), on the faded frame.

    Args:
        done: a completed clip.
        time: of the frame.
        clip: of the batch.

    Returns:
        (H, W, 3) uint8 BGR, with the visible part's outline in white.
    """
    picture = faded(as_images(done.frames[clip, time : time + 1])[0])
    past, future, painted, left = (
        part[clip, time, 0].cpu().numpy() > 0.5 for part in (done.from_past, done.from_future, done.painted, done.left)
    )
    _outline(picture, done.visible[clip, time], (255, 255, 255))
    regions = (past & ~future, past & future, future & ~past, painted, left)
    for colour, region in zip(ORIGINS.values(), regions, strict=True):
        picture[region] = colour
    return picture


def draw_flow(flow: torch.Tensor, complete: torch.Tensor, *, fastest: float) -> np.ndarray:
    """Paint a flow: the hue is its direction, the saturation its speed.

    Args:
        flow: (2, H, W) pixels.
        complete: (1, H, W) float in {0, 1}; its outline is drawn.
        fastest: speed of full saturation, pixels.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    picture = flow_picture(np.ascontiguousarray(flow.float().permute(1, 2, 0).cpu().numpy()), fastest)
    _outline(picture, complete, (0, 0, 0))
    return picture


def _shown(times: int, columns: int) -> list[int]:
    return np.unique(np.linspace(0, times - 1, min(columns, times)).round().astype(int)).tolist()


def _window(masks: torch.Tensor) -> tuple[slice, slice]:
    """The box around masks (T, 1, H, W) with some surroundings; all of the image where they are empty."""
    found = masks.amax(dim=(0, 1)).cpu().numpy() > 0.5
    if not found.any():
        return np.s_[:, :]
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    more = round(_MARGIN * max(rows[-1] - rows[0], columns[-1] - columns[0])) + 4
    return np.s_[max(rows[0] - more, 0) : rows[-1] + 1 + more, max(columns[0] - more, 0) : columns[-1] + 1 + more]


def _captioned(row: np.ndarray, caption: str) -> np.ndarray:
    bar = np.full((line_height(_TEXT) + 2, row.shape[1], 3), 255, np.uint8)
    write(bar, caption, (2, 1), _TEXT)
    return np.concatenate([bar, row])


def _legend(width: int) -> np.ndarray:
    bar = np.full((line_height(_TEXT) + 2, width, 3), 255, np.uint8)
    for number, (name, colour) in enumerate(ORIGINS.items()):
        x = 2 + number * 110
        bar[3:-3, x : x + 12] = colour
        write(bar, name, (x + 16, 1), _TEXT)
    return bar


def inpainting_strip(
    frames: torch.Tensor,
    done: Completion,
    *,
    flows: Sequence[torch.Tensor] | None = None,
    clip: int = 0,
    columns: int = 8,
    height: int = 160,
) -> np.ndarray:
    """A film strip: the frames, the flow before and after its completion, where colours come from, and the result.

    Args:
        frames: (B, T, 3, H, W) float RGB in [-1, 1], as observed.
        done: the completed clip.
        flows: observed and completed forward flow, (B, T - 1, 2, H, W) each; None leaves their rows out.
        clip: of the batch.
        columns: number of frames, at equal steps through the clip.
        height: of a picture, pixels; pictures show the object's surroundings.

    Returns:
        (H', W', 3) uint8 BGR.
    """
    times = _shown(frames.shape[1] - (flows is not None and frames.shape[1] > 1), columns)
    window = _window(done.complete[clip])
    observed, results = as_images(frames[clip, times]), as_images(done.frames[clip, times])
    for picture, time in zip(observed, times, strict=True):
        _outline(picture, done.complete[clip, time], (0, 0, 255))
        _outline(picture, done.visible[clip, time], (255, 255, 255))
    rows = [(f"frames {', '.join(map(str, times))}; visible part white, complete red", observed)]
    if flows is not None and frames.shape[1] > 1:
        rows += _flow_rows(flows, done, clip, times)
    rows += [
        ("where the colours come from", [draw_origins(done, time, clip=clip) for time in times]),
        ("result", results),
    ]
    parts = []
    for caption, pictures in rows:
        scale = height / pictures[0][window].shape[0]
        cells = [
            cv2.resize(picture[window], None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
            for picture in pictures
        ]
        parts.append(_captioned(tile(cells, columns=len(cells)), caption))
        if caption.startswith("where"):
            parts.append(_legend(parts[-1].shape[1]))
    return np.concatenate(parts)


def _flow_rows(flows: Sequence[torch.Tensor], done: Completion, clip: int, times: list[int]) -> list:
    """Captions and pictures of the observed and the completed flow, on one scale."""
    inside = done.complete[clip, :-1, 0] > 0.5
    speed = flows[1][clip].norm(dim=1)
    chosen = speed[inside] if inside.any() else speed.flatten()
    fastest = max(float(np.percentile(chosen.cpu().numpy(), 99)), 1.0)
    return [
        (
            f"{name} flow; full colour: {fastest:.1f} px a frame",
            [draw_flow(flow[clip, time], done.complete[clip, time], fastest=fastest) for time in times],
        )
        for name, flow in zip(("observed", "completed"), flows, strict=True)
    ]
