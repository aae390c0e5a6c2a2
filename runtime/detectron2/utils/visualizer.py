"""Drawing of boxes, masks, labels and segmentations over an image, with matplotlib's Agg renderer (no pyplot)."""

import colorsys
import logging
from collections.abc import Sequence
from enum import Enum, unique
from typing import Any

import cv2
import matplotlib.colors as mplc
import numpy as np
import pycocotools.mask as mask_util
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon, Rectangle
from PIL import Image

from detectron2._left_out import left_out_class, left_out_error
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from .colormap import random_color

logger = logging.getLogger(__name__)

__all__ = ["ColorMode", "VisImage", "Visualizer"]

_SMALL_OBJECT_AREA_THRESH = 1000  # box area in pixels of the input image: the label of a smaller object goes beside it
_LARGE_MASK_AREA_THRESH = 120000  # pixels: each part of a mask as large as this gets its own label
_OFF_WHITE = (1.0, 1.0, 240.0 / 255)


@unique
class ColorMode(Enum):
    """Style of instances: colours and opacity."""

    IMAGE = 0
    """A random colour for each instance, masks half transparent."""
    SEGMENTATION = 1
    """Colours of the metadata's `thing_colors`, jittered within a category; masks nearly opaque."""
    IMAGE_BW = 2
    """As IMAGE over a gray image that keeps its colours inside the masks."""


_PanopticPrediction = left_out_class("_PanopticPrediction", "panoptic segmentation")


class GenericMask:
    """A mask of one instance from any format, converted to the other formats on demand.

    Attributes:
        mask: (height, width) uint8 in {0, 1}.
        polygons: list of float arrays [x0, y0, x1, y1, ...], absolute pixels. Outlines of holes are polygons too.
        has_holes: whether the bitmap has a hole; a mask given as polygons has none.
    """

    def __init__(self, mask_or_polygons: dict | list | np.ndarray, height: int, width: int):
        """Args:
        mask_or_polygons: a COCO RLE (compressed or not), a list of polygons, or a (height, width) bitmap.
        height, width: size of the image.
        """
        self.height = height
        self.width = width
        self._mask: np.ndarray | None = None
        self._polygons: list[np.ndarray] | None = None
        self._has_holes: bool | None = None

        source = mask_or_polygons
        if isinstance(source, dict):
            assert {"counts", "size"} <= source.keys(), f"Not an RLE, its keys are {sorted(source)}"
            if isinstance(source["counts"], list):
                assert list(source["size"]) == [height, width], f"RLE of {source['size']}, image {height}x{width}"
                source = mask_util.frPyObjects(source, height, width)
            self._mask = mask_util.decode(source)
        elif isinstance(source, list):
            self._polygons = [np.asarray(polygon).reshape(-1) for polygon in source]
            self._has_holes = False
        elif isinstance(source, np.ndarray):
            assert source.shape == (height, width), f"Mask of shape {source.shape}, image {height}x{width}"
            self._mask = source.astype("uint8")
        else:
            raise ValueError(f"A mask is an RLE dict, a list of polygons or an array, got {type(source).__name__}")

    @property
    def mask(self) -> np.ndarray:
        if self._mask is None:
            self._mask = self.polygons_to_mask(self._polygons)
        return self._mask

    @property
    def polygons(self) -> list[np.ndarray]:
        if self._polygons is None:
            self._polygons, self._has_holes = self.mask_to_polygons(self._mask)
        return self._polygons

    @property
    def has_holes(self) -> bool:
        if self._has_holes is None:
            self._polygons, self._has_holes = self.mask_to_polygons(self._mask)
        return self._has_holes

    def mask_to_polygons(self, mask: np.ndarray) -> tuple[list[np.ndarray], bool]:
        """Outlines of a bitmap through its border pixels' centres, and whether one of them is that of a hole."""
        # CCOMP: two levels, outer outlines and holes; a hole is a contour with a parent (column 3).
        bitmap = np.ascontiguousarray(mask, dtype="uint8")
        contours, hierarchy = cv2.findContours(bitmap, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        if hierarchy is None:
            return [], False
        has_holes = bool((hierarchy[..., 3] >= 0).any())
        return [points.reshape(-1) + 0.5 for points in contours if len(points) >= 3], has_holes

    def polygons_to_mask(self, polygons: list[np.ndarray]) -> np.ndarray:
        """The union of polygons as a bitmap."""
        return mask_util.decode(self._merged_rle(polygons))

    def _merged_rle(self, polygons: list[np.ndarray]) -> dict[str, Any]:
        return mask_util.merge(mask_util.frPyObjects(polygons, self.height, self.width))

    def area(self) -> int:
        """Number of pixels."""
        return self.mask.sum()

    def bbox(self) -> np.ndarray:
        """Box around the polygons, (4,) xyxy absolute pixels."""
        x, y, width, height = mask_util.toBbox(self._merged_rle(self.polygons))
        return np.array([x, y, x + width, y + height])


def _create_text_labels(
    classes: Sequence[int] | None,
    scores: Sequence[float] | None,
    class_names: Sequence[str] | None,
    is_crowd: Sequence[bool] | None = None,
) -> list[str] | None:
    """Labels such as ``cat 97%``, ``cat|crowd`` or ``97%``; class numbers where there are no names."""
    parts: list[list[str]] = []
    if classes is not None:
        parts.append([class_names[index] if class_names else str(index) for index in classes])
    if scores is not None:
        parts.append([f"{score * 100:.0f}%" for score in scores])
    if not parts:
        return None
    labels = [" ".join(words) for words in zip(*parts, strict=False)]
    if is_crowd is not None:
        labels = [label + "|crowd" * bool(crowd) for label, crowd in zip(labels, is_crowd, strict=False)]
    return labels


class VisImage:
    """An image as a matplotlib figure to draw on, in pixel coordinates of the input.

    Attributes:
        img: the input image.
        width, height: of the input, without `scale`.
        scale: factor of the output's size.
        fig, ax, canvas, dpi: the figure; anything that matplotlib can draw may be added to `ax`.
    """

    def __init__(self, img: np.ndarray, scale: float = 1.0):
        """`img`: (H, W, 3) RGB in [0, 255]."""
        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]

        self.fig = Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # matplotlib truncates inches * dpi to pixels: a hundredth of a pixel more saves the last row and column.
        self.fig.set_size_inches(
            *((side * scale + 1e-2) / self.dpi for side in (self.width, self.height)),
        )
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes((0.0, 0.0, 1.0, 1.0))
        self.ax.axis("off")
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Put `img`, (H, W, 3) in [0, 255], under what will be drawn from now on."""
        self.ax.imshow(img.astype("uint8"), extent=(0, self.width, self.height, 0), interpolation="nearest")

    def save(self, filepath: str) -> None:
        """Write an image file, or a vector graphic, by the ending of `filepath`."""
        self.fig.savefig(filepath)

    def get_image(self) -> np.ndarray:
        """The drawing, (H * scale, W * scale, 3) uint8 RGB."""
        self.canvas.draw()
        return np.array(self.canvas.buffer_rgba())[..., :3].copy()


class Visualizer:
    """Draws predictions and annotations on one image.

    Primitives: `draw_{text,box,circle,line,polygon,binary_mask,soft_mask}`. Whole results: `draw_instance_predictions`,
    `draw_dataset_dict`, `draw_sem_seg`, `overlay_instances`. Each returns the :class:`VisImage` it drew on, which is
    `self.output`. Coordinates are absolute pixels of the input image; colours are whatever matplotlib takes.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ):
        """Args:
        img_rgb: (H, W, 3) RGB in [0, 255].
        metadata: of the dataset: `thing_classes`, `thing_colors`, `stuff_classes`, `stuff_colors` are used.
        scale: size of the output relative to the input.
        instance_mode: style of instances.
        font_size_scale: factor on the size of labels, which follows the size of the image.
        """
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = Metadata() if metadata is None else metadata
        self.output = VisImage(self.img, scale=scale)
        self.cpu_device = torch.device("cpu")
        by_image = np.sqrt(self.output.height * self.output.width) // 90
        self._default_font_size = max(by_image, 10 // scale) * font_size_scale
        self._instance_mode = instance_mode

    def draw_instance_predictions(self, predictions, jittering: bool = True) -> VisImage:
        """Draw the output of a detection or instance segmentation model.

        Args:
            predictions: Instances with any of `pred_boxes`, `pred_classes`, `scores`, `pred_masks` ((N, H, W) bool).
            jittering: in the SEGMENTATION style, vary the colour within a category.
        """
        if predictions.has("pred_keypoints"):
            raise left_out_error("Visualizer.draw_instance_predictions with pred_keypoints", "keypoints")
        fields = predictions.get_fields()
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        labels = _create_text_labels(classes, fields.get("scores"), self.metadata.get("thing_classes", None))
        masks = fields.get("pred_masks")
        if masks is not None:
            masks = _to_numpy(masks)

        colors, alpha = None, 0.5
        if self._instance_mode == ColorMode.IMAGE_BW:
            self.output.reset_image(self._create_grayscale_image(None if masks is None else masks.any(axis=0)))
            alpha = 0.3
        elif self._uses_thing_colors():
            colors, alpha = self._thing_colors(classes, jittering), 0.8
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"), labels=labels, masks=masks, assigned_colors=colors, alpha=alpha
        )

    def draw_sem_seg(
        self,
        sem_seg: np.ndarray | torch.Tensor,
        area_threshold: float | None = None,
        alpha: float = 0.8,
        draw_text: bool = True,
        edge_color: Any = _OFF_WHITE,
    ) -> VisImage:
        """Draw a semantic segmentation, the largest classes first.

        Args:
            sem_seg: (H, W) class numbers; those beyond the metadata's `stuff_classes` are skipped.
            area_threshold: parts with fewer pixels are skipped.
            alpha: opacity.
            draw_text: put the class names on the segments.
            edge_color: of the outlines.
        """
        sem_seg = _to_numpy(sem_seg)
        names = self.metadata.stuff_classes
        palette = self.metadata.get("stuff_colors", ())
        values, areas = np.unique(sem_seg, return_counts=True)
        for value in values[np.argsort(-areas)].tolist():
            if value >= len(names):
                continue
            self.draw_binary_mask(
                sem_seg == value,
                color=_unit_rgb(palette[value]) if value < len(palette) else None,
                edge_color=edge_color,
                text=names[value] if draw_text else None,
                alpha=alpha,
                area_threshold=area_threshold,
            )
        return self.output

    def draw_panoptic_seg(self, panoptic_seg, segments_info, area_threshold=None, alpha=0.7) -> VisImage:
        """Not covered by this runtime."""
        raise left_out_error("Visualizer.draw_panoptic_seg", "panoptic segmentation")

    draw_panoptic_seg_predictions = draw_panoptic_seg

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draw the annotations of one image in detectron2's dataset format.

        Args:
            dic: ``annotations`` (boxes, segmentations, categories) and ``sem_seg`` or ``sem_seg_file_name`` are drawn
                where present. Keypoints and panoptic segmentations raise NotImplementedError.
        """
        if annos := dic.get("annotations"):
            if "keypoints" in annos[0]:
                raise left_out_error("Visualizer.draw_dataset_dict with keypoints", "keypoints")
            classes = [anno["category_id"] for anno in annos]
            crowd = [anno.get("iscrowd", 0) for anno in annos]
            self.overlay_instances(
                boxes=[_xyxy(anno) for anno in annos],
                labels=_create_text_labels(classes, None, self.metadata.get("thing_classes", None), crowd),
                masks=[anno["segmentation"] for anno in annos] if "segmentation" in annos[0] else None,
                assigned_colors=self._thing_colors(classes) if self._uses_thing_colors() else None,
            )

        sem_seg = dic.get("sem_seg")
        if sem_seg is None and "sem_seg_file_name" in dic:
            with PathManager.open(dic["sem_seg_file_name"], "rb") as f:
                sem_seg = np.asarray(Image.open(f), dtype="uint8")
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)

        if dic.get("pan_seg") is not None or "pan_seg_file_name" in dic:
            raise left_out_error("Visualizer.draw_dataset_dict with pan_seg", "panoptic segmentation")
        return self.output

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        keypoints: Any = None,
        assigned_colors: Sequence[Any] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw instances, the largest first so that it does not hide the others.

        Args:
            boxes: Boxes, or (N, 4) xyxy.
            labels: N texts.
            masks: PolygonMasks, BitMasks, (N, H, W) array or tensor, or a list with for each instance a list of
                polygons, a bitmap, a COCO RLE or a GenericMask.
            keypoints: not covered.
            assigned_colors: N colours; None picks random ones.
            alpha: opacity of the masks.
        """
        if keypoints is not None:
            raise left_out_error("Visualizer.overlay_instances with keypoints", "keypoints")
        if boxes is not None:
            boxes = self._convert_boxes(boxes)
        if masks is not None:
            masks = self._convert_masks(masks)
        counts = [len(items) for items in (boxes, masks) if items is not None]
        num_instances = next((count for count in counts if count), 0)
        for name, items in (("boxes", boxes), ("masks", masks), ("labels", labels), ("colors", assigned_colors)):
            assert items is None or len(items) == num_instances, f"{len(items)} {name} for {num_instances} instances"
        if assigned_colors is None:
            assigned_colors = [random_color(rgb=True, maximum=1) for _ in range(num_instances)]
        if num_instances == 0:
            return self.output

        if boxes is not None:
            if boxes.shape[1] == 5:
                raise left_out_error("Visualizer.overlay_instances with 5 numbers per box", "rotated boxes")
            areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        else:
            areas = np.asarray([int(mask.area()) for mask in masks])

        for index in np.argsort(-areas).tolist():
            box = None if boxes is None else boxes[index]
            mask = None if masks is None else masks[index]
            color = assigned_colors[index]
            if box is not None:
                self.draw_box(box, edge_color=color)
            if mask is not None:
                for polygon in mask.polygons:
                    self.draw_polygon(polygon.reshape(-1, 2), color, alpha=alpha)
            if labels is not None:
                self._draw_label(labels[index], color, box, mask)
        return self.output

    def _draw_label(self, text: str, color: Any, box: np.ndarray | None, mask: GenericMask | None) -> None:
        """Put a label on the corner of the box, else in the middle of the mask, else, for small things, beside."""
        if box is not None:
            position, align = box[:2], "left"
        elif len(mask.polygons) == 0:
            return  # a mask of a pixel or two has no outline, so nothing was drawn
        else:
            box = mask.bbox()
            # The median of the pixels lies on the object more often than their mean.
            position, align = np.median(mask.mask.nonzero(), axis=1)[::-1], "center"
        x0, y0, x1, y1 = box
        width, height = x1 - x0, y1 - y0
        scale = self.output.scale
        if width * height < _SMALL_OBJECT_AREA_THRESH * scale or height < 40 * scale:
            at_bottom = y1 >= self.output.height - 5
            position = (x1, y0) if at_bottom else (x0, y1)

        relative_height = height / np.sqrt(self.output.height * self.output.width)
        self.draw_text(
            text,
            position,
            font_size=0.5 * self._default_font_size * np.clip((relative_height - 0.02) / 0.08 + 1, 1.2, 2),
            color=self._change_color_brightness(color, brightness_factor=0.7),
            horizontal_alignment=align,
        )

    def overlay_rotated_instances(self, boxes=None, labels=None, assigned_colors=None) -> VisImage:
        """Not covered by this runtime."""
        raise left_out_error("Visualizer.overlay_rotated_instances", "rotated boxes")

    def draw_rotated_box_with_label(
        self, rotated_box, alpha=0.5, edge_color="g", line_style="-", label=None
    ) -> VisImage:
        """Not covered by this runtime."""
        raise left_out_error("Visualizer.draw_rotated_box_with_label", "rotated boxes")

    def draw_and_connect_keypoints(self, keypoints) -> VisImage:
        """Not covered by this runtime."""
        raise left_out_error("Visualizer.draw_and_connect_keypoints", "keypoints")

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Any = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Write on a dark background.

        Args:
            text: what to write.
            position: (x, y) of the upper edge.
            font_size: None follows the size of the image.
            color: of the letters; dark colours are lightened to be readable.
            horizontal_alignment: which part of the text is at x: left, center or right.
            rotation: degrees, counter-clockwise.
        """
        rgb = np.maximum(mplc.to_rgb(color), 0.2)
        strongest = rgb.argmax()
        rgb[strongest] = max(rgb[strongest], 0.8)
        self.output.ax.text(
            *position,
            text,
            size=(font_size or self._default_font_size) * self.output.scale,
            family="sans-serif",
            color=rgb,
            bbox=dict(facecolor="black", alpha=0.8, pad=0.7, edgecolor="none"),
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
            rotation=rotation,
            zorder=10,
        )
        return self.output

    def draw_box(
        self, box_coord: Sequence[float], alpha: float = 0.5, edge_color: Any = "g", line_style: str = "-"
    ) -> VisImage:
        """Draw the outline of a box (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = box_coord
        outline = Rectangle(
            (x0, y0),
            x1 - x0,
            y1 - y0,
            fill=False,
            alpha=alpha,
            edgecolor=edge_color,
            linestyle=line_style,
            linewidth=max(self._default_font_size / 4, 1) * self.output.scale,
        )
        self.output.ax.add_patch(outline)
        return self.output

    def draw_circle(self, circle_coord: Sequence[float], color: Any, radius: float = 3) -> VisImage:
        """Draw a filled circle around (x, y)."""
        self.output.ax.add_patch(Circle(tuple(circle_coord), radius=radius, color=color, fill=True))
        return self.output

    def draw_line(
        self,
        x_data: Sequence[float],
        y_data: Sequence[float],
        color: Any,
        linestyle: str = "-",
        linewidth: float | None = None,
    ) -> VisImage:
        """Draw a line through points; a `linewidth` of None follows the size of the image."""
        width = self._default_font_size / 3 if linewidth is None else linewidth
        line = Line2D(x_data, y_data, linewidth=max(width, 1) * self.output.scale, color=color, linestyle=linestyle)
        self.output.ax.add_line(line)
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Any = None,
        *,
        edge_color: Any = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float | None = 10,
    ) -> VisImage:
        """Draw a bitmap: as filled outlines, or, if it has holes, pixel by pixel.

        Args:
            binary_mask: (H, W), 0 or 1.
            color: None picks a random one.
            edge_color: of the outlines; None as in :meth:`draw_polygon`.
            text: written on the mask.
            alpha: opacity.
            area_threshold: outlines around fewer pixels are skipped.
        """
        color = mplc.to_rgb(random_color(rgb=True, maximum=1) if color is None else color)
        binary_mask = binary_mask.astype("uint8")
        mask = GenericMask(binary_mask, self.output.height, self.output.width)
        if mask.has_holes:
            self._draw_alpha_map((mask.mask == 1) * alpha, color)
            drawn = True
        else:
            drawn = False
            for polygon in mask.polygons:
                if mask_util.area(mask_util.frPyObjects([polygon], *binary_mask.shape))[0] >= (area_threshold or 0):
                    self.draw_polygon(polygon.reshape(-1, 2), color, edge_color=edge_color, alpha=alpha)
                    drawn = True
        if text is not None and drawn:
            self._draw_text_in_mask(binary_mask, text, self._change_color_brightness(color, brightness_factor=0.7))
        return self.output

    def draw_soft_mask(
        self, soft_mask: np.ndarray, color: Any = None, *, text: str | None = None, alpha: float = 0.5
    ) -> VisImage:
        """Draw a soft mask.

        Args:
            soft_mask: (H, W) float in [0, 1], multiplied with `alpha` to the opacity of a pixel.
            color: None picks a random one.
            text: written where the mask exceeds 0.5.
            alpha: opacity of a mask value of 1.
        """
        color = mplc.to_rgb(random_color(rgb=True, maximum=1) if color is None else color)
        self._draw_alpha_map(soft_mask * alpha, color)
        if text is not None:
            lighter = self._change_color_brightness(color, brightness_factor=0.7)
            self._draw_text_in_mask((soft_mask > 0.5).astype("uint8"), text, lighter)
        return self.output

    def _draw_alpha_map(self, opacity: np.ndarray, color: tuple[float, float, float]) -> None:
        rgba = np.empty((*opacity.shape, 4), dtype="float32")
        rgba[..., :3] = color
        rgba[..., 3] = opacity
        self.output.ax.imshow(rgba, extent=(0, self.output.width, self.output.height, 0))

    def draw_polygon(self, segment: np.ndarray, color: Any, edge_color: Any = None, alpha: float = 0.5) -> VisImage:
        """Draw a filled polygon.

        Args:
            segment: (N, 2) points.
            color: of the inside.
            edge_color: of the outline; None takes `color`, darkened if the inside is nearly opaque (alpha > 0.8).
            alpha: opacity of the inside.
        """
        if edge_color is None:
            edge_color = self._change_color_brightness(color, brightness_factor=-0.7) if alpha > 0.8 else color
        shape = Polygon(
            segment,
            fill=True,
            facecolor=(*mplc.to_rgb(color), alpha),
            edgecolor=(*mplc.to_rgb(edge_color), 1),
            linewidth=max(self._default_font_size // 15 * self.output.scale, 1),
        )
        self.output.ax.add_patch(shape)
        return self.output

    def get_output(self) -> VisImage:
        """The image with all that was drawn."""
        return self.output

    def _uses_thing_colors(self) -> bool:
        return self._instance_mode == ColorMode.SEGMENTATION and bool(self.metadata.get("thing_colors"))

    def _thing_colors(self, classes: Sequence[int], jittering: bool = True) -> list[tuple[float, ...]]:
        colors = [_unit_rgb(self.metadata.thing_colors[index]) for index in classes]
        return [self._jitter(color) for color in colors] if jittering else colors

    def _jitter(self, color: Any) -> tuple[float, ...]:
        """Lighten a colour by a vector of length 0.5 and random direction."""
        direction = np.random.rand(3)
        return tuple(np.clip(direction / np.linalg.norm(direction) * 0.5 + mplc.to_rgb(color), 0, 1))

    def _create_grayscale_image(self, mask: np.ndarray | None = None) -> np.ndarray:
        """The image in gray, (H, W, 3) float32, with its colours where `mask` is True."""
        gray = self.img.astype("float32").mean(axis=2, keepdims=True).repeat(3, axis=2)
        return gray if mask is None else np.where(mask[..., None], self.img, gray)

    def _change_color_brightness(self, color: Any, brightness_factor: float) -> tuple[float, ...]:
        """Scale the lightness of a colour by 1 + brightness_factor, a number in [-1, 1]."""
        assert -1.0 <= brightness_factor <= 1.0, f"brightness_factor is in [-1, 1], got {brightness_factor}"
        hue, lightness, saturation = colorsys.rgb_to_hls(*mplc.to_rgb(color))
        lightness = min(max(lightness + brightness_factor * lightness, 0.0), 1.0)
        return tuple(np.clip(colorsys.hls_to_rgb(hue, lightness, saturation), 0.0, 1.0))

    def _convert_boxes(self, boxes: Any) -> np.ndarray:
        """Boxes of any kind as an (N, 4) or, rotated, (N, 5) array."""
        return _to_numpy(boxes)

    def _convert_masks(self, masks_or_polygons: Any) -> list[GenericMask]:
        """Masks of any kind as a list of GenericMask."""
        masks = getattr(masks_or_polygons, "polygons", masks_or_polygons)
        if hasattr(masks, "tensor") or isinstance(masks, torch.Tensor):
            masks = _to_numpy(masks)
        height, width = self.output.height, self.output.width
        return [mask if isinstance(mask, GenericMask) else GenericMask(mask, height, width) for mask in masks]

    def _draw_text_in_mask(self, binary_mask: np.ndarray, text: str, color: Any) -> None:
        """Write on the largest connected part of a mask, and on every other part that is very large."""
        _, part_of_pixel, stats, _ = cv2.connectedComponentsWithStats(binary_mask, connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]  # part 0 is the background
        for index, area in enumerate(areas):
            if index == areas.argmax() or area > _LARGE_MASK_AREA_THRESH:
                center = np.median((part_of_pixel == index + 1).nonzero(), axis=1)[::-1]
                self.draw_text(text, center, color=color)


def _to_numpy(data: Any) -> np.ndarray:
    """Boxes, BitMasks, a tensor on any device, or anything that NumPy takes, as an array."""
    data = getattr(data, "tensor", data)
    return data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else np.asarray(data)


def _unit_rgb(color: Sequence[int]) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in color)


def _xyxy(anno: dict[str, Any]) -> Sequence[float]:
    """The box of an annotation, xyxy; five numbers (a rotated box) stay as they are."""
    box = anno["bbox"]
    return BoxMode.convert(box, anno["bbox_mode"], BoxMode.XYXY_ABS) if len(box) == 4 else box
