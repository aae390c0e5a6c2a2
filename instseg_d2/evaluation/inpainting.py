"""Evaluation of completed objects in videos: their appearance, shape and motion (VOIN, Table 5.8, and beyond).

Appearance is scored on composites: the truth, with the result in the hole. So what the result says of other places does
not count, and an occluder that goes on beside the object is not held against it. A frame of which nothing is hidden
would score 100 dB and is left out, and counted.

Each figure is the mean over the frames of a track, then over tracks (`inpainting`); the mean over all frames is
`inpainting_frames`. The paper does not say what it averages over.
"""

import itertools
import logging
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from tabulate import tabulate

from instseg_d2.inpainting.clips import check_clip, to_bytes
from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.flow.warp import cycle_error, end_points, sample, warp

from .image_quality import WINDOW, PerceptualDistance, psnr, ssim, window_for

logger = logging.getLogger(__name__)

TASK, FRAME_TASK = "inpainting", "inpainting_frames"
# Pixels: LPIPS of smaller pictures says little.
CROP_SIDE = 64
# Pixels of cycle error up to which a true flow says where a point is in the next frame.
_SAME_POINT = 1.0

Flows = tuple[torch.Tensor, torch.Tensor]
Values = dict[str, list[float]]

MEANINGS = {
    "PSNR": "dB, whole composite",
    "SSIM": "whole composite, window {window} px",
    "LPIPS": "whole composite, AlexNet",
    "PSNR_hole": "dB, hidden part alone",
    "SSIM_hole": f"hidden part alone, window {WINDOW} px",
    "PSNR_box": f"dB, crop of the object, {CROP_SIDE} px or more",
    "SSIM_box": f"the same crop, window {WINDOW} px",
    "LPIPS_box": "the same crop",
    "warp": "grey levels between an object's pixel and the same one in the next frame",
    "warp_truth": "the same of the truth",
    "EPE": "px, flow in the hidden part",
    "EPE_complete": "px, flow in the complete mask",
    "IoU": "complete masks",
    "IoU_hidden": "hidden parts",
    "propagated": "share of the hidden part that other frames filled",
}


def _cropped(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the box of a mask (H, W) bool, enlarged to `CROP_SIDE` where the frame allows."""
    found = []
    for axis, side in ((1, mask.shape[0]), (0, mask.shape[1])):
        places = np.flatnonzero(mask.any(axis=axis))
        first, length = places[0], places[-1] + 1 - places[0]
        wanted = min(side, max(length, CROP_SIDE))
        start = min(max(first - (wanted - length) // 2, 0), side - wanted)
        found.append(slice(start, start + wanted))
    return tuple(found)


def appearance(
    result: torch.Tensor,
    clean: torch.Tensor,
    visible: torch.Tensor,
    complete: torch.Tensor,
    lpips: PerceptualDistance | None = None,
) -> Values:
    """PSNR, SSIM and LPIPS of each frame with a hole, in three regions.

    Args:
        result: (T, 3, H, W) float RGB in [-1, 1].
        clean: same shape, the truth.
        visible: (T, 1, H, W) float in {0, 1}.
        complete: same shape.
        lpips: None leaves it out.
    """
    values: Values = defaultdict(list)
    shown, truth = (to_bytes(images).permute(0, 2, 3, 1).cpu().numpy() for images in (result, clean))
    holes, objects = _planes(complete * (1 - visible)), _planes(complete)
    for found, true, hole, whole in zip(shown, truth, holes, objects, strict=True):
        if not hole.any():
            continue
        pair = np.where(hole[..., None], found, true), true
        crop = tuple(image[_cropped(whole)] for image in pair)
        values["PSNR"].append(psnr(*pair))
        values["SSIM"].append(ssim(*pair, window_for(*hole.shape)))
        values["PSNR_hole"].append(psnr(*pair, hole))
        values["SSIM_hole"].append(ssim(*pair, WINDOW, hole))
        values["PSNR_box"].append(psnr(*crop))
        values["SSIM_box"].append(ssim(*crop, WINDOW))
        if lpips is not None:
            values["LPIPS"].append(lpips(*pair))
            values["LPIPS_box"].append(lpips(*crop))
    return values


def end_point_error(flows: Flows, true_flows: Flows, visible: torch.Tensor, complete: torch.Tensor) -> Values:
    """Mean distance of completed and true flow, of each frame and direction, in the hole and in the complete mask.

    Args:
        flows: forward and backward, (T - 1, 2, H, W) pixels each.
        true_flows: the same of the clean frames.
        visible: (T, 1, H, W) float in {0, 1}.
        complete: same shape.
    """
    values: Values = defaultdict(list)
    masks = {"EPE": complete * (1 - visible), "EPE_complete": complete}
    for direction, starts in ((0, slice(None, -1)), (1, slice(1, None))):
        errors = torch.linalg.vector_norm(flows[direction].double() - true_flows[direction].double(), dim=1)
        for name, mask in masks.items():
            for error, region in zip(errors, mask[starts, 0] > 0.5, strict=True):
                if region.any():
                    values[name].append(error[region].mean().item())
    return values


def shape_overlap(predicted: torch.Tensor, visible: torch.Tensor, complete: torch.Tensor) -> Values:
    """IoU of complete masks, and of their hidden parts in frames that have one, (T, 1, H, W) float in {0, 1} each."""
    values: Values = defaultdict(list)
    for found, seen, true in zip(*map(_planes, (predicted, visible, complete)), strict=True):
        if true.any():
            values["IoU"].append(_overlap(found, true))
        if (true & ~seen).any():
            values["IoU_hidden"].append(_overlap(found & ~seen, true & ~seen))
    return values


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def _planes(masks: torch.Tensor) -> np.ndarray:
    return masks[:, 0].cpu().numpy() > 0.5


def warping_error(
    result: torch.Tensor, clean: torch.Tensor, visible: torch.Tensor, complete: torch.Tensor, true_flows: Flows
) -> Values:
    """How much an object's pixels change from frame to frame, along the true flow; of the composite and of the truth.

    Pixels count whose flow is consistent both ways and ends on the object. See `appearance` and `end_point_error`.
    """
    forward, backward = (flow.float() for flow in true_flows)
    composite = torch.where(complete * (1 - visible) > 0.5, result, clean)
    ends_inside = sample(complete[1:], end_points(forward)) > 0.99
    region = ((complete[:-1] > 0.5) & ends_inside & (cycle_error(forward, backward) < _SAME_POINT))[:, 0]
    values: Values = defaultdict(list)
    for name, clip in (("warp", composite), ("warp_truth", clean)):
        levels = to_bytes(clip).float()
        change = (levels[:-1] - warp(levels[1:], forward)).abs().mean(dim=1)
        values[name] = [one[there].mean().item() for one, there in zip(change, region, strict=True) if there.any()]
    return values


def propagated_share(propagated: torch.Tensor, visible: torch.Tensor, complete: torch.Tensor) -> Values:
    """Share of each hole that was filled out of other frames, (T, 1, H, W) float in {0, 1} each."""
    found, holes = _planes(propagated), _planes(complete * (1 - visible))
    return {"propagated": [float(one[hole].mean()) for one, hole in zip(found, holes, strict=True) if hole.any()]}


class InpaintingEvaluator:
    """Collects figures of tracks, each as a whole, and averages them.

    Args:
        lpips: see `find_lpips`; None leaves it out of the results, and the table says so.
        distributed: gather from all processes.
    """

    def __init__(self, *, lpips: PerceptualDistance | None = None, distributed: bool = True):
        self.lpips = lpips
        self.distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget all tracks."""
        self._tracks: dict[str, dict[str, Any]] = {}

    def process(
        self,
        name: str,
        *,
        clean: torch.Tensor,
        visible: torch.Tensor,
        complete: torch.Tensor,
        result: torch.Tensor | None = None,
        predicted: torch.Tensor | None = None,
        flows: Flows | None = None,
        true_flows: Flows | None = None,
        propagated: torch.Tensor | None = None,
    ) -> None:
        """Score a track; what is not given is not scored.

        Args:
            name: of the track; the same name again replaces it.
            clean: (T, 3, H, W) float RGB in [-1, 1], the truth.
            visible: (T, 1, H, W) float in {0, 1}, what is truly seen, whatever the method was given.
            complete: (T, 1, H, W), the truth.
            result: (T, 3, H, W), completed frames.
            predicted: (T, 1, H, W), predicted complete masks.
            flows: completed flow, forward and backward, (T - 1, 2, H, W) pixels each.
            true_flows: of the clean frames, exact or by the estimator that was used; also needed for `warp`.
            propagated: (T, 1, H, W), pixels that were filled out of other frames.

        Raises:
            InpaintingError: the parts do not fit each other, or `flows` come without `true_flows`.
        """
        parts = {"visible": visible, "complete": complete, "predicted": predicted, "propagated": propagated}
        for kind, pair in (("", flows), ("true ", true_flows)):
            for direction, flow in zip(("forward", "backward"), pair or (None, None), strict=True):
                parts[f"{kind}{direction} flow"] = flow
        check_clip(clean[None], **{key: None if part is None else part[None] for key, part in parts.items()})
        if result is not None and result.shape != clean.shape:
            raise InpaintingError(f"track {name}: result {tuple(result.shape)}, truth {tuple(clean.shape)}: must agree")
        if flows is not None and true_flows is None:
            raise InpaintingError(f"track {name}: 'flows' can only be scored beside 'true_flows'")
        masks = visible, complete
        values: Values = {}
        if result is not None:
            values |= appearance(result, clean, *masks, self.lpips)
        if result is not None and true_flows is not None:
            values |= warping_error(result, clean, *masks, true_flows)
        if flows is not None:
            values |= end_point_error(flows, true_flows, *masks)
        if predicted is not None:
            values |= shape_overlap(predicted, *masks)
        if propagated is not None:
            values |= propagated_share(propagated, *masks)
        holes = int((complete * (1 - visible) > 0.5).flatten(1).any(dim=1).sum())
        size = tuple(clean.shape[-2:])
        self._tracks[name] = {"values": values, "frames": len(clean), "holes": holes, "size": size}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The figures of `MEANINGS` that were scored, and counts; `{}` off the main process. The table is logged.

        Returns:
            `{"inpainting": {"PSNR": ..., "tracks": ..., "frames": ..., "frames_without_hole": ...},
            "inpainting_frames": {"PSNR": ...}}`.
        """
        gathered = comm.gather(self._tracks) if self.distributed else [self._tracks]
        if self.distributed and not comm.is_main_process():
            return {}
        tracks = {name: track for part in gathered for name, track in part.items()}
        results: dict[str, dict[str, float]] = {TASK: {}, FRAME_TASK: {}}
        for metric in MEANINGS:
            by_track = [track["values"][metric] for track in tracks.values() if track["values"].get(metric)]
            if by_track:
                results[TASK][metric] = float(np.mean([np.mean(values) for values in by_track]))
                results[FRAME_TASK][metric] = float(np.mean(list(itertools.chain(*by_track))))
        frames, holes = (sum(track[key] for track in tracks.values()) for key in ("frames", "holes"))
        results[TASK] |= {"tracks": len(tracks), "frames": frames, "frames_without_hole": frames - holes}
        logger.info("completed objects:\n%s", self.table(results, {track["size"] for track in tracks.values()}))
        return results

    def table(self, results: dict[str, dict[str, float]], sizes: set[tuple[int, int]] = frozenset()) -> str:
        """Results of `evaluate` as a table that says what each figure is.

        Args:
            results: of `evaluate`.
            sizes: heights and widths of the frames, which SSIM's window follows.
        """
        window = " or ".join(str(window) for window in sorted({window_for(*size) for size in sizes})) or "65 or 7"
        absent = self.lpips is None and "PSNR" in results[TASK]
        rows = []
        for metric, meaning in MEANINGS.items():
            figures = [results[task].get(metric) for task in (TASK, FRAME_TASK)]
            if absent and metric.startswith("LPIPS"):
                rows.append((metric, "n/a (weights absent)", "", meaning))
            elif None not in figures:
                rows.append((metric, *(f"{figure:.4f}" for figure in figures), meaning.format(window=window)))
        text = tabulate(rows, ("metric", "mean of tracks", "mean of frames", "what"), disable_numparse=True)
        counts = results[TASK]
        return (
            f"{text}\n{counts['tracks']} tracks, {counts['frames']} frames; in {counts['frames_without_hole']} of them "
            "nothing is hidden"
        )
