"""What a stage of video object inpainting makes of a clip, frame by frame, beside the truth."""

from typing import Any

import numpy as np
import torch

from instseg_d2.data.synthetic.film_strip import flow_picture
from instseg_d2.inpainting.clips import as_images

from .sheet import of_width, side_by_side, tile

# BGR of pixels of the hidden part: found, missed, and what is not the object.
_FOUND, _MISSED, _WRONG = (90, 200, 90), (230, 120, 40), (60, 60, 230)
# Of each of several pictures of a frame beside each other, pixels.
FRAME_WIDTH = 220


def draw_stage(item: dict[str, Any], output: dict[str, Any], *, frames: int = 5) -> np.ndarray:
    """Draw a clip and its predictions, a frame a row.

    Args:
        item: of `InpaintingClips`, as `ClipMapper` gives it.
        output: the `Stage`'s prediction for it: `complete`, `flows` or `frames`, or several of them.
        frames: how many rows, at equal steps through the clip.

    Returns:
        (H, W, 3) uint8 BGR. Of complete masks, what is seen is grey, and of the hidden part what was found is green,
        what was missed blue, and what is not the object red.
    """
    columns = {"observed": as_images(item["frames"])}
    if "complete" in output:
        columns["complete mask"] = _masks(item, output["complete"])
    if "flows" in output:
        columns |= _flows(item, output["flows"])
    if "frames" in output:
        if "propagated_frames" in item:
            hole = item["complete"] * (1 - item["propagated_visible"])
            columns["propagated"] = as_images(item["propagated_frames"].masked_fill(hole > 0.5, 0.0))
        columns["result"] = as_images(output["frames"])
    columns["truth"] = as_images(torch.where(item["complete"] > 0.5, item["clean"], item["frames"]))
    times = np.unique(np.linspace(0, len(item["frames"]) - 1, frames).round().astype(int))
    rows = [
        side_by_side(
            [of_width(pictures[min(time, len(pictures) - 1)], FRAME_WIDTH) for pictures in columns.values()],
            list(columns),
        )
        for time in times
    ]
    return tile(rows, columns=1)


def _masks(item: dict[str, Any], predicted: torch.Tensor) -> np.ndarray:
    """(T, H, W, 3) uint8 BGR."""
    seen, true, found = (part[:, 0].cpu().numpy() > 0.5 for part in (item["visible"], item["complete"], predicted))
    pictures = np.full((*seen.shape, 3), 25, np.uint8)
    pictures[seen] = 170
    pictures[true & found & ~seen] = _FOUND
    pictures[true & ~found & ~seen] = _MISSED
    pictures[found & ~true & ~seen] = _WRONG
    return pictures


def _flows(item: dict[str, Any], flows: tuple[torch.Tensor, torch.Tensor]) -> dict[str, np.ndarray]:
    """Forward flows (T - 1, H, W, 3) uint8 BGR as observed, as completed and of the clean frames, in one scale."""
    named = {
        "observed flow": item["observed_forward_flow"],
        "completed flow": flows[0],
        "true flow": item["forward_flow"],
    }
    arrays = {name: flow.float().permute(0, 2, 3, 1).cpu().numpy() for name, flow in named.items()}
    fastest = float(np.linalg.norm(arrays["true flow"], axis=-1).max(initial=1.0))
    return {
        name: np.stack([flow_picture(np.ascontiguousarray(flow), fastest) for flow in array])
        for name, array in arrays.items()
    }
