"""What maps of instances look like: a panel is a title, a map of each instance, and a way to draw it.

A method that predicts something else needs no change here. A head that attaches `pred_<name>`, (N, 1, M, M), has a heat
map of it in every strip; another look is one more `Panel`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, ROIMasks

from instseg_d2.layers.contours import mask_contours

from .affinities import object_affinity

# BGR. Away from the green and violet of the heat maps.
OCCLUDER_COLOUR = (40, 130, 255)
OBJECT_COLOUR = (255, 190, 60)
_TARGET_SIDE = 28


class Style(Protocol):
    """How a map is drawn."""

    def fitted(self, values: Sequence[np.ndarray]) -> "Style":
        """The style to draw these maps with, all those of a picture, so that they share one scale."""

    @property
    def legend(self) -> tuple[float, float, int] | None:
        """Least and greatest value of the colour scale and its `cv2.COLORMAP_*`; None without a scale."""

    def draw(self, crop: np.ndarray, values: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """Draw one map.

        Args:
            crop: (S, S, 3) uint8 BGR, the surroundings of the instance; it is not changed.
            values: (S, S) float32, NaN where the map says nothing.
            colour: of the instance, (3,) BGR.

        Returns:
            (S, S, 3) uint8 BGR.
        """


def faded(crop: np.ndarray) -> np.ndarray:
    """The image in dark grey, on which colours stand out; (S, S, 3) uint8."""
    grey = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return (0.35 * grey + 25).astype(np.uint8)


@dataclass(frozen=True)
class Tint:
    """Masks and other probabilities: the more likely, the more of a colour, with the outline of what exceeds 1/2.

    Attributes:
        colour: BGR; None takes that of the instance.
        on_image: draw on the image as it is, not on a faded one.
        alpha: opacity of a value of 1.
    """

    colour: tuple[int, int, int] | None = None
    on_image: bool = False
    alpha: float = 0.85
    legend = None

    def fitted(self, values: Sequence[np.ndarray]) -> "Tint":
        return self

    def draw(self, crop: np.ndarray, values: np.ndarray, colour: np.ndarray) -> np.ndarray:
        canvas = crop.copy() if self.on_image else faded(crop)
        tone = colour if self.colour is None else np.array(self.colour, dtype=float)
        opacity = self.alpha * np.clip(np.nan_to_num(values), 0, 1)[..., None]
        canvas[:] = canvas * (1 - opacity) + tone * opacity
        inside = (np.nan_to_num(values) >= 0.5).astype(np.uint8)
        outlines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        # White on black is seen on any image, the colour itself only on a faded one.
        for shade, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)) if self.on_image else ((tone, 1),):
            cv2.drawContours(canvas, outlines, -1, shade, thickness, cv2.LINE_AA)
        return canvas


@dataclass(frozen=True)
class Heat:
    """Numbers as colours, with a scale above the panel.

    Attributes:
        low, high: ends of the scale; None takes the least or the greatest value of the picture.
        colours: a `cv2.COLORMAP_*`.
    """

    low: float | None = 0.0
    high: float | None = 1.0
    colours: int = cv2.COLORMAP_VIRIDIS

    def fitted(self, values: Sequence[np.ndarray]) -> "Heat":
        known = np.concatenate([value[np.isfinite(value)] for value in values] or [np.zeros(0)])
        if not known.size:
            known = np.zeros(1)
        low = float(known.min()) if self.low is None else self.low
        high = float(known.max()) if self.high is None else self.high
        return replace(self, low=low, high=high if high > low else low + 1)

    @property
    def legend(self) -> tuple[float, float, int]:
        return self.low, self.high, self.colours

    def draw(self, crop: np.ndarray, values: np.ndarray, colour: np.ndarray) -> np.ndarray:
        canvas = faded(crop)
        inside = np.isfinite(values)
        share = np.clip((np.nan_to_num(values) - self.low) / (self.high - self.low), 0, 1)
        canvas[inside] = cv2.applyColorMap((255 * share).round().astype(np.uint8), self.colours)[inside]
        return canvas


@dataclass(frozen=True)
class Panel:
    """One column of a picture of strips.

    Attributes:
        title: stands above it.
        maps: name of a field of the instances, or a callable that takes the instances and gives the same or None for
            "no such map": (N, 1, M, M) or `ROIMasks` relative to the boxes, or (N, H, W), `BitMasks` or `PolygonMasks`
            relative to the image.
        style: see `Style`.
    """

    title: str
    maps: str | Callable[[Instances], Any]
    style: Style = Heat()

    def values(self, instances: Instances) -> np.ndarray | None:
        """(N, 1, M, M) or (N, H, W), bool or float32; None if the instances have no such map.

        Raises:
            ValueError: it has another shape.
        """
        if isinstance(self.maps, str):
            maps = instances.get(self.maps) if instances.has(self.maps) else None
        else:
            maps = self.maps(instances)
        if maps is None:
            return None
        tensor = _as_tensor(maps, instances.image_size)
        of_box = tensor.ndim == 4 and tensor.shape[1] == 1
        of_image = tensor.ndim == 3 and tuple(tensor.shape[1:]) == tuple(instances.image_size)
        if len(tensor) != len(instances) or not (of_box or of_image):
            raise ValueError(
                f"panel '{self.title}': maps of shape {tuple(tensor.shape)} for {len(instances)} instances of a "
                f"{tuple(instances.image_size)} image; they must be (N, 1, M, M) or (N, H, W)"
            )
        tensor = tensor.detach().cpu()
        return tensor.numpy() if tensor.dtype == torch.bool else tensor.float().numpy()


def _as_tensor(maps: Any, image_size: tuple[int, int]) -> torch.Tensor:
    if isinstance(maps, PolygonMasks):
        maps = BitMasks.from_polygon_masks(maps, *image_size)
    if isinstance(maps, ROIMasks):
        return maps.tensor[:, None]
    return maps.tensor if isinstance(maps, BitMasks) else torch.as_tensor(maps)


def boxes_of(instances: Instances) -> Boxes:
    """The boxes of predictions or of ground truth."""
    return instances.pred_boxes if instances.has("pred_boxes") else instances.gt_boxes


def target(field: str, *, contour: bool = False, only_with: str = "") -> Callable[[Instances], torch.Tensor | None]:
    """Maps of ground truth as a mask loss sees them: cut out at the true boxes, 28 x 28.

    Args:
        field: masks of the ground truth.
        contour: of the masks, as BCNet draws them; else the masks.
        only_with: a field without which nobody asks for this map.
    """

    def cut_out(instances: Instances) -> torch.Tensor | None:
        if not instances.has(field) or (only_with and not instances.has(only_with)):
            return None
        cropped = instances.get(field).crop_and_resize(boxes_of(instances).tensor, _TARGET_SIDE)
        return (mask_contours(cropped) if contour else cropped)[:, None].bool()

    return cut_out


_OCCLUDER, _OBJECT = Tint(OCCLUDER_COLOUR), Tint(OBJECT_COLOUR)

# In the order of the strips. Predictions have the first group, ground truth the second.
PANELS = (
    Panel("occluder", "pred_occluder_masks", _OCCLUDER),
    Panel("occluder contour", "pred_occluder_contours", _OCCLUDER),
    Panel("contour", "pred_contours", _OBJECT),
    Panel("boundary", "pred_boundaries", _OBJECT),
    Panel("affinity of the object", object_affinity, Heat(0.0, None)),
    Panel("threshold T", "pred_thresholds", Heat()),
    Panel("probability P", "pred_probabilities", Heat()),
    Panel("class activation", "pred_class_activation", Heat()),
    Panel("teacher", "pred_teacher_masks", Heat()),
    Panel("pseudo mask", "pred_pseudo_masks", _OBJECT),
    Panel("soft mask", "pred_soft_masks", Heat()),
    Panel("mask", "pred_masks", Tint(on_image=True, alpha=0.5)),
    Panel("occluder", "gt_occluders", _OCCLUDER),
    Panel("occluder, 28×28", target("gt_occluders"), _OCCLUDER),
    Panel("occluder contour, 28×28", target("gt_occluders", contour=True), _OCCLUDER),
    Panel("contour, 28×28", target("gt_masks", contour=True, only_with="gt_occluders"), _OBJECT),
    Panel("mask, 28×28", target("gt_masks"), _OBJECT),
    Panel("amodal mask", "gt_amodal_masks", Tint(on_image=True, alpha=0.5)),
    Panel("mask", "gt_masks", Tint(on_image=True, alpha=0.5)),
)


def with_further_maps(panels: Iterable[Panel], instances: Instances) -> list[Panel]:
    """Add a heat map for each field `pred_*`, (N, 1, M, M), that no panel is named after."""
    panels = list(panels)
    known = {panel.maps for panel in panels if isinstance(panel.maps, str)}
    for field, value in instances.get_fields().items():
        is_map = isinstance(value, torch.Tensor) and value.ndim == 4 and value.shape[1] == 1
        if is_map and field.startswith("pred_") and field not in known:
            panels.append(Panel(field.removeprefix("pred_").replace("_", " "), field, Heat(None, None)))
    return panels
