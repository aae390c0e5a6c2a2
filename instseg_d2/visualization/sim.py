"""What SIM learns masks from: colors, semantic and instance maps, pseudo masks, weights of positives, and pastes.

Drawn from plain tensors, whatever model they come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.structures import Instances

from instseg_d2.data.fields import filled_boxes

from .overlay import line_thickness
from .panels import OBJECT_COLOUR, Heat, Panel, faded
from .samples import draw_sample
from .sheet import tile
from .strips import draw_strips

_BACKGROUND_COLOUR = (150, 60, 60)
_IGNORED_COLOUR = (235, 235, 235)
# Radius of the disc of a positive, as a share of its object's longer side.
_DISC = 0.035


@dataclass(frozen=True)
class Bands:
    """Style of targets: foreground (1) in color, background (0) in dark blue, what does not count (1/2) striped.

    NaN stands for pixels of which nothing is said.
    """

    legend = None

    def fitted(self, values: Sequence[np.ndarray]) -> "Bands":
        """The style itself; it has no scale."""
        return self

    def draw(self, crop: np.ndarray, values: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """Draw one map, see `Style.draw`."""
        canvas = faded(crop)
        foreground, background = values > 0.75, values < 0.25
        rows, columns = np.indices(values.shape)
        ignored = np.isfinite(values) & ~foreground & ~background & ((rows + columns) // 3 % 2 == 0)
        for here, tone in (
            (foreground, OBJECT_COLOUR),
            (background, _BACKGROUND_COLOUR),
            (ignored, _IGNORED_COLOUR),
        ):
            canvas[here] = 0.3 * canvas[here] + 0.7 * np.array(tone)
        outlines, _ = cv2.findContours(foreground.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, (255, 255, 255), line_thickness(canvas), cv2.LINE_AA)
        return canvas


_PANELS = (
    Panel("same color as neighbors", "same_color"),
    Panel("semantic map", "semantic"),
    Panel("instance map", "instance"),
    Panel("pseudo mask (striped: ignored)", "pseudo", Bands()),
    Panel("weights of the positives", "positives", Heat(0.0, None, cv2.COLORMAP_PLASMA)),
)


def draw_pseudo_supervision(
    image: np.ndarray,
    truth: Instances,
    class_names: Sequence[str] | None = None,
    *,
    stride: int,
    color_edges: torch.Tensor | None = None,
    semantic: torch.Tensor | None = None,
    instance: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
    valid: torch.Tensor | None = None,
    locations: torch.Tensor | None = None,
    gt_inds: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    rows: int = 8,
    side: int = 160,
) -> np.ndarray:
    """Draw a strip for each object of an image: all that its mask is learned from.

    What is left out has no panel. Maps are those of the M objects, or of the image, on a grid of (h, w) points that lie
    at the pixels `stride // 2 + stride * i`; the grid may reach beyond the image.

    Args:
        image: (H, W, 3) uint8, BGR, as the network sees it.
        truth: its M objects, with `gt_boxes` and `gt_classes`.
        class_names: text of the labels; class indices when left out.
        stride: of the grid.
        color_edges: (P, h, w) bool, of the image: a pixel and its neighbor count as of one color. Drawn is the share of
            a pixel's neighbors for which they do, inside of the box.
        semantic: (M, h, w) in [0, 1], probability of the object's class.
        instance: (M, h, w) in [0, 1], the merged masks of its positives.
        targets: (M, h, w) bool, foreground of its pseudo mask; with `valid`.
        valid: (M, h, w) bool, pixels that count.
        locations: (K, 2) xy pixels of the positives; with `gt_inds` and `weights`.
        gt_inds: (K,) int64, object of each.
        weights: (K,), that sum up to 1 for each object.
        rows: objects at most, the largest ones.
        side: of a panel, pixels.

    Returns:
        (H', W', 3) uint8, BGR; see `draw_strips`.

    Raises:
        ValueError: the ground truth belongs to an image of another size.
    """
    size = tuple(truth.image_size)
    shown = Instances(size, gt_boxes=truth.gt_boxes.to("cpu"), gt_classes=truth.gt_classes.cpu())
    inside = filled_boxes(shown.gt_boxes.tensor, size)
    if color_edges is not None:
        share = _on_image(color_edges.float().mean(dim=0)[None], stride, size)
        shown.same_color = share.masked_fill(~inside, torch.nan)
    for name, maps in (("semantic", semantic), ("instance", instance)):
        if maps is not None:
            shown.set(name, _on_image(maps, stride, size))
    if targets is not None:
        bands = torch.where(valid, targets.float(), 0.5)
        shown.pseudo = _on_image(bands, stride, size).masked_fill(~inside, torch.nan)
    if locations is not None:
        shown.positives = _discs(shown, locations.cpu(), gt_inds.cpu(), weights.cpu())
    return draw_strips(image, shown, class_names, panels=_PANELS, rows=rows, side=side)


def _on_image(maps: torch.Tensor, stride: int, size: tuple[int, int]) -> torch.Tensor:
    """Maps (M, h, w) in the pixels of the image, (M, H, W) float32 on the CPU; each point fills its cell."""
    maps = maps.detach().float().cpu().repeat_interleave(stride, dim=1).repeat_interleave(stride, dim=2)
    return maps[:, : size[0], : size[1]]


def _discs(instances: Instances, locations: torch.Tensor, gt_inds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Discs of the positives' weights, (M, H, W) float32 with NaN elsewhere; heavy ones lie above light ones."""
    canvas = np.full((len(instances), *instances.image_size), np.nan, np.float32)
    boxes = instances.gt_boxes.tensor
    radii = (_DISC * (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)).round().int().clamp(min=1)
    for row in weights.argsort().tolist():
        index = int(gt_inds[row])
        centre = tuple(locations[row].round().int().tolist())
        cv2.circle(canvas[index], centre, int(radii[index]), float(weights[row]), cv2.FILLED)
    return torch.from_numpy(canvas)


def draw_pasting(
    image: np.ndarray,
    truth: Instances,
    pasted_image: np.ndarray,
    pasted_truth: Instances,
    class_names: Sequence[str] | None = None,
    *,
    side: int = 320,
) -> np.ndarray:
    """Draw an image before and after copy-paste.

    Boxes alone are dashed; pasted objects have their mask. What was covered wholly is gone, other boxes have shrunk to
    what is still seen.

    Args:
        image: (H, W, 3) uint8, BGR.
        truth: its objects, on the CPU, with `gt_boxes` and `gt_classes`.
        pasted_image: the same size.
        pasted_truth: with `gt_boxes`, `gt_classes`, `gt_masks`, `gt_has_mask` and `gt_pasted`, see `CopyPaste.paste`.
        class_names: text of the labels; class indices when left out.
        side: the longer one of a picture, pixels.

    Returns:
        (H', W', 3) uint8, BGR: both pictures side by side.

    Raises:
        ValueError: objects belong to an image of another size.
    """
    before = Instances(truth.image_size, gt_boxes=truth.gt_boxes, gt_classes=truth.gt_classes)
    before.gt_has_mask = torch.zeros(len(truth), dtype=torch.bool)
    count = int(pasted_truth.gt_pasted.sum())
    gone = len(truth) - (len(pasted_truth) - count)
    captions = f"{len(truth)} objects", f"{count} pasted, {gone} covered"
    pictures = [
        draw_sample(picture, objects, class_names, caption=caption, side=side)
        for picture, objects, caption in ((image, before, captions[0]), (pasted_image, pasted_truth, captions[1]))
    ]
    return tile(pictures, columns=2)
