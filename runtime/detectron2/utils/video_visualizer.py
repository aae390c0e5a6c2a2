"""Drawing of predictions on the frames of a video, an object keeping its colour from frame to frame."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from detectron2._left_out import left_out_error
from detectron2.structures import Boxes, Instances, pairwise_iou

from .colormap import random_color, random_colors
from .visualizer import ColorMode, VisImage, Visualizer, _create_text_labels, _to_numpy

_FRAMES_REMEMBERED = 8  # an object that is missed by the detector keeps its colour for so many frames
_SAME_OBJECT_IOU = 0.6


@dataclass(slots=True)
class _TrackedBox:
    label: int | None
    box: np.ndarray
    color: np.ndarray
    frames_left: int = _FRAMES_REMEMBERED


class VideoVisualizer:
    """Draws the instances of successive frames of one video.

    Predictions may carry `ID`, N integers from a tracker: an identity then has one colour as long as it is in every
    frame. Without, an object inherits the colour of the last frames' object of the same class whose box overlaps it
    most, if their IoU exceeds 0.6. A field `COLOR`, N colours, overrides both.
    """

    def __init__(self, metadata: Any, instance_mode: ColorMode = ColorMode.IMAGE):
        """Args:
        metadata: of the dataset: `thing_classes`, and optionally `max_num_instances`, how many identities one frame
            may have (74, the size of the palette), and `period_threshold`: with a field `ID_period`, only
            instances whose period exceeds it are drawn.
        instance_mode: IMAGE or IMAGE_BW.
        """
        assert instance_mode in (ColorMode.IMAGE, ColorMode.IMAGE_BW), f"{instance_mode} is not for videos"
        self.metadata = metadata
        self._instance_mode = instance_mode
        self._tracked: list[_TrackedBox] = []
        self._max_num_instances = metadata.get("max_num_instances", 74)
        self._color_of_id: dict[int, np.ndarray] = {}
        # First in, first out: the colour of an object that has just left is the last to be used again.
        self._free_colors = deque(random_colors(self._max_num_instances, rgb=True, maximum=1))

    def draw_instance_predictions(self, frame: np.ndarray, predictions: Instances) -> VisImage:
        """Draw the predictions for the next frame.

        Args:
            frame: (H, W, 3) RGB in [0, 255].
            predictions: Instances with `pred_boxes` or `pred_masks` ((N, H, W) bool), optionally `pred_classes`,
                `scores`, `ID`, `ID_period`, `COLOR`. Boxes are drawn only where there are no masks.
        """
        visualizer = Visualizer(frame, self.metadata)
        if len(predictions) == 0:
            return visualizer.output
        if predictions.has("pred_keypoints"):
            raise left_out_error("VideoVisualizer.draw_instance_predictions with pred_keypoints", "keypoints")
        fields = predictions.get_fields()
        masks = _to_numpy(fields["pred_masks"]) if "pred_masks" in fields else None
        boxes = _to_numpy(fields["pred_boxes"]) if "pred_boxes" in fields else _boxes_of(masks)
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None

        if "COLOR" in fields:
            colors = list(fields["COLOR"])
        elif "ID" in fields:
            colors = self._colors_by_id([int(identity) for identity in fields["ID"]])
        else:
            colors = self._colors_by_overlap(boxes, classes or [None] * len(boxes))
        labels = _create_text_labels(classes, fields.get("scores"), self.metadata.get("thing_classes", None))

        alpha = 0.5
        if self._instance_mode == ColorMode.IMAGE_BW:
            inside = None if masks is None else masks.any(axis=0)
            visualizer.output.reset_image(visualizer._create_grayscale_image(inside))
            alpha = 0.3

        drawn = list(range(len(boxes)))
        if "ID_period" in fields:
            least = self.metadata.get("period_threshold", 0)
            drawn = [index for index, period in enumerate(fields["ID_period"]) if period > least]
        return visualizer.overlay_instances(
            boxes=boxes[drawn] if masks is None else None,
            masks=None if masks is None else masks[drawn],
            labels=None if labels is None else [labels[index] for index in drawn],
            assigned_colors=[colors[index] for index in drawn],
            alpha=alpha,
        )

    def draw_sem_seg(self, frame: np.ndarray, sem_seg: Any, area_threshold: float | None = None) -> VisImage:
        """Draw a semantic segmentation of a frame; see :meth:`Visualizer.draw_sem_seg`."""
        return Visualizer(frame, self.metadata).draw_sem_seg(sem_seg, area_threshold=area_threshold)

    def draw_panoptic_seg_predictions(
        self, frame, panoptic_seg, segments_info, area_threshold=None, alpha=0.5
    ) -> VisImage:
        """Not covered by this runtime."""
        raise left_out_error("VideoVisualizer.draw_panoptic_seg_predictions", "panoptic segmentation")

    def _colors_by_overlap(self, boxes: np.ndarray, classes: list[int | None]) -> list[np.ndarray]:
        colors: list[np.ndarray | None] = [None] * len(boxes)
        missed = []
        if self._tracked:
            before = torch.as_tensor(np.stack([old.box for old in self._tracked]))
            ious = pairwise_iou(Boxes(before), Boxes(torch.as_tensor(boxes))).numpy()
            ious[[[old.label != label for label in classes] for old in self._tracked]] = 0
            for old, row in zip(self._tracked, ious, strict=True):
                best = row.argmax()
                if row[best] > _SAME_OBJECT_IOU and colors[best] is None:
                    colors[best] = old.color
                    continue
                old.frames_left -= 1
                if old.frames_left > 0:
                    missed.append(old)
        colors = [random_color(rgb=True, maximum=1) if color is None else color for color in colors]
        seen = [_TrackedBox(*instance) for instance in zip(classes, boxes, colors, strict=True)]
        self._tracked = seen + missed
        return colors

    def _colors_by_id(self, ids: list[int]) -> list[np.ndarray]:
        # Free the colours of those that left before giving colours to those that came.
        for gone in self._color_of_id.keys() - set(ids):
            self._free_colors.append(self._color_of_id.pop(gone))
        for identity in ids:
            if identity not in self._color_of_id:
                assert self._free_colors, (
                    f"More than {self._max_num_instances} identities in a frame: raise metadata.max_num_instances "
                    "(at most 74)"
                )
                self._color_of_id[identity] = self._free_colors.popleft()
        return [self._color_of_id[identity] for identity in ids]


def _boxes_of(masks: np.ndarray) -> np.ndarray:
    """(N, 4) boxes, xyxy, around (N, H, W) masks; zeros around an empty one."""
    boxes = np.zeros((len(masks), 4), dtype="float32")
    for box, mask in zip(boxes, masks, strict=True):
        ys, xs = mask.nonzero()
        if len(xs):
            box[:] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    return boxes
