"""Instances drawn over an image: filled masks with outlines, boxes where there is no mask, labels."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.utils.colormap import colormap


def _binary_masks(instances: Instances) -> np.ndarray | None:
    """(N, H, W) bool masks of predictions or ground truth; None if there are none."""
    for field in ("pred_masks", "gt_masks"):
        if not instances.has(field):
            continue
        masks = instances.get(field)
        if isinstance(masks, PolygonMasks):
            masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
        tensor = masks.tensor if isinstance(masks, BitMasks) else torch.as_tensor(masks)
        return tensor.cpu().numpy().astype(bool)
    return None


def instance_colours(classes: np.ndarray) -> list[np.ndarray]:
    """A BGR colour, (3,) in [0, 255], for each instance; those of one class differ too: people tell instances apart."""
    palette = colormap(rgb=False)
    return [palette[(7 * int(c) + 13 * index) % len(palette)].astype(float) for index, c in enumerate(classes)]


def id_colour(identity: int) -> np.ndarray:
    """A bright BGR colour, (3,) in [0, 255], that is always the same for an id; those of close ids differ much.

    Id 0, which is nobody's, is grey.
    """
    if identity == 0:
        return np.array([160.0, 160.0, 160.0])
    # Steps of the golden ratio never come back to a hue; when they come near, it is paler or darker.
    hue = identity * 0.618034 % 1
    saturation, value = ((255, 255), (130, 255), (255, 165))[identity // 8 % 3]
    hsv = np.uint8([[[round(179 * hue), saturation, value]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(float)


def line_thickness(canvas: np.ndarray) -> int:
    """Of outlines and boxes, pixels."""
    return max(1, round(min(canvas.shape[:2]) / 400))


def paint_mask(canvas: np.ndarray, inside: np.ndarray, colour: np.ndarray, alpha: float) -> None:
    """Tint the pixels of a mask (H, W) bool, in place, and draw its outline."""
    canvas[inside] = (canvas[inside] * (1 - alpha) + colour * alpha).astype(np.uint8)
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, line_thickness(canvas), cv2.LINE_AA)


def _labels(
    classes: np.ndarray, ids: list[int] | None, scores: np.ndarray | None, class_names: Sequence[str] | None
) -> list[str]:
    texts = [class_names[index] if class_names else str(index) for index in classes]
    if ids is not None:
        texts = [f"{text} #{identity}" if identity else text for text, identity in zip(texts, ids, strict=True)]
    return texts if scores is None else [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    class_names: Sequence[str] | None = None,
    *,
    score_threshold: float = 0.5,
    alpha: float = 0.45,
    labels: bool = True,
    enlarge: int = 1,
) -> np.ndarray:
    """Draw predictions or ground truth over an image.

    Objects of a video, those with `pred_ids` or `gt_ids` (N,) int64, have the colour of their id, the same in all
    frames, and the id in their label.

    Args:
        image: (H, W, 3) uint8, BGR; it is not changed.
        instances: predictions (`pred_boxes` xyxy pixels, `pred_classes`, `scores`, `pred_masks` (N, H, W)) or ground
            truth (`gt_boxes`, `gt_classes`, `gt_masks`) of an image of this size. Masks are optional.
        class_names: text of the labels; class indices when left out.
        score_threshold: predictions below it are not drawn; in [0, 1].
        alpha: opacity of the mask's colour, in [0, 1].
        labels: write class and score at each box's upper left corner.
        enlarge: draw on the image enlarged by this factor, so that outlines and labels of small images stay fine.

    Returns:
        (enlarge * H, enlarge * W, 3) uint8, BGR.

    Raises:
        ValueError: the instances belong to an image of another size.
    """
    if tuple(instances.image_size) != image.shape[:2]:
        raise ValueError(f"instances of a {tuple(instances.image_size)} image cannot be drawn over {image.shape[:2]}")
    if instances.has("scores"):
        instances = instances[instances.scores >= score_threshold]
    predicted = instances.has("pred_boxes")
    boxes = (instances.pred_boxes if predicted else instances.gt_boxes).tensor.cpu().numpy() * enlarge
    classes = (instances.pred_classes if predicted else instances.gt_classes).cpu().numpy()
    scores = instances.scores.cpu().numpy() if instances.has("scores") else None
    masks = _binary_masks(instances)
    ids = next((instances.get(name).tolist() for name in ("pred_ids", "gt_ids") if instances.has(name)), None)
    colours = instance_colours(classes) if ids is None else [id_colour(identity) for identity in ids]
    canvas = cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    # Large ones first, so that small ones stay visible.
    order = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")
    for index in order:
        if masks is None:
            x0, y0, x1, y1 = boxes[index].round().astype(int).tolist()
            cv2.rectangle(canvas, (x0, y0), (x1, y1), colours[index], line_thickness(canvas), cv2.LINE_AA)
            continue
        paint_mask(canvas, masks[index].repeat(enlarge, axis=0).repeat(enlarge, axis=1), colours[index], alpha)
    if labels:
        for index, text in enumerate(_labels(classes, ids, scores, class_names)):
            write_label(canvas, text, boxes[index, :2].round().astype(int), colours[index])
    return canvas


def write_label(canvas: np.ndarray, text: str, corner: np.ndarray, colour: np.ndarray) -> None:
    """Write a label on a filled tag, inside the image, in black or white, whichever reads better."""
    height, width = canvas.shape[:2]
    scale = max(0.32, min(height, width) / 1200)
    (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(corner[0], 0, max(width - w - 2, 0)))
    y = int(np.clip(corner[1], h + 2, max(height - base, h + 2)))
    cv2.rectangle(canvas, (x, y - h - 2), (x + w + 2, y + base - 1), colour, cv2.FILLED)
    ink = (0, 0, 0) if colour @ (0.114, 0.587, 0.299) > 140 else (255, 255, 255)
    cv2.putText(canvas, text, (x + 1, y - 1), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
