"""Box-to-box transforms: how a predicted vector moves an anchor or a proposal, and the loss on it."""

import math

import torch
import torch.nn.functional as F
from fvcore.nn import giou_loss, smooth_l1_loss

from detectron2._left_out import left_out_class
from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.structures import Boxes

__all__ = ["Box2BoxTransform", "Box2BoxTransformRotated", "Box2BoxTransformLinear"]

# exp() of a larger dw or dh would make a 16-pixel box wider than a 1000-pixel image.
_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)

Box2BoxTransformRotated = left_out_class("Box2BoxTransformRotated", "rotated boxes")


def _centres_and_sizes(boxes):
    """Split (..., 4) xyxy boxes into ctr_x, ctr_y, width, height, each (...)."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    width, height = x1 - x0, y1 - y0
    return x0 + 0.5 * width, y0 + 0.5 * height, width, height


def _check_boxes(*boxes):
    for b in boxes:
        assert isinstance(b, torch.Tensor), f"Boxes must be a Tensor here, got {type(b)}"


class Box2BoxTransform:
    """The transform of R-CNN: (dx, dy) moves the center by fractions of the size, (dw, dh) scale the size by exp().

    Args:
        weights (tuple[float, float, float, float]): factors on (dx, dy, dw, dh), which bring regression targets to
            about unit variance.
        scale_clamp (float): upper bound of dw and dh before exp().
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = _DEFAULT_SCALE_CLAMP):
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes, target_boxes):
        """The deltas that :meth:`apply_deltas` needs to turn `src_boxes` into `target_boxes`.

        Args:
            src_boxes (Tensor): (N, 4) xyxy, such as proposals; widths must be positive.
            target_boxes (Tensor): (N, 4) xyxy, such as ground truth.

        Returns:
            Tensor: (N, 4).
        """
        _check_boxes(src_boxes, target_boxes)
        sx, sy, sw, sh = _centres_and_sizes(src_boxes)
        tx, ty, tw, th = _centres_and_sizes(target_boxes)
        wx, wy, ww, wh = self.weights
        assert (sw > 0).all().item(), "Box2BoxTransform got source boxes without a positive width"
        return torch.stack(
            (wx * (tx - sx) / sw, wy * (ty - sy) / sh, ww * torch.log(tw / sw), wh * torch.log(th / sh)), dim=1
        )

    def apply_deltas(self, deltas, boxes):
        """Move boxes by predicted deltas, in float32.

        Args:
            deltas (Tensor): (N, k * 4), k >= 1 vectors (one per class, say) for each box.
            boxes (Tensor): (N, 4) xyxy.

        Returns:
            Tensor: (N, k * 4) xyxy, float32.
        """
        deltas = deltas.float()
        ctr_x, ctr_y, width, height = (v[:, None] for v in _centres_and_sizes(boxes.to(deltas.dtype)))
        dx, dy, dw, dh = (
            d / weight for d, weight in zip(deltas.unflatten(1, (-1, 4)).unbind(-1), self.weights, strict=True)
        )
        x, y = dx * width + ctr_x, dy * height + ctr_y
        half_w = 0.5 * (dw.clamp(max=self.scale_clamp).exp() * width)
        half_h = 0.5 * (dh.clamp(max=self.scale_clamp).exp() * height)
        return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1).flatten(1)


class Box2BoxTransformLinear:
    """The transform of FCOS: distances from the center of a square source box to the four sides of the target.

    Args:
        normalize_by_size (bool): in units of the source box's size, instead of pixels.
    """

    def __init__(self, normalize_by_size=True):
        self.normalize_by_size = normalize_by_size

    def _centres_and_units(self, boxes):
        x0, y0, x1, y1 = boxes.unbind(-1)
        centres = torch.stack((0.5 * (x0 + x1), 0.5 * (y0 + y1)), dim=-1)
        units = boxes[..., 2:] - boxes[..., :2] if self.normalize_by_size else None
        return centres, units

    def get_deltas(self, src_boxes, target_boxes):
        """The distances (left, top, right, bottom); positive where the center lies inside the target.

        Args:
            src_boxes (Tensor): (N, 4) xyxy squares, such as anchors.
            target_boxes (Tensor): (N, 4) xyxy, such as ground truth.

        Returns:
            Tensor: (N, 4).
        """
        _check_boxes(src_boxes, target_boxes)
        centres, units = self._centres_and_units(src_boxes)
        deltas = torch.cat((centres - target_boxes[:, :2], target_boxes[:, 2:] - centres), dim=1)
        return deltas if units is None else deltas / units.repeat(1, 2)

    def apply_deltas(self, deltas, boxes):
        """Turn predicted distances into boxes; negative distances count as zero, so that every box is valid.

        Args:
            deltas (Tensor): (N, k * 4), k >= 1 vectors for each box.
            boxes (Tensor): (N, 4) xyxy squares.

        Returns:
            Tensor: (N, k * 4) xyxy, of the dtype of `deltas`.
        """
        centres, units = self._centres_and_units(boxes.to(deltas.dtype)[:, None])
        before, after = F.relu(deltas).unflatten(1, (-1, 4)).chunk(2, dim=-1)
        if units is not None:
            before, after = before * units, after * units
        return torch.cat((centres - before, centres + after), dim=-1).flatten(1)


_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


def _dense_box_regression_loss(
    anchors: list[Boxes | torch.Tensor],
    box2box_transform: Box2BoxTransform,
    pred_anchor_deltas: list[torch.Tensor],
    gt_boxes: list[torch.Tensor],
    fg_mask: torch.Tensor,
    box_reg_loss_type="smooth_l1",
    smooth_l1_beta=0.0,
):
    """Sum of the box loss over the foreground anchors of a dense detector.

    Args:
        anchors: per level, (Ri, 4) xyxy.
        box2box_transform: of the detector.
        pred_anchor_deltas: per level, (N, Ri, 4).
        gt_boxes: per image, (R, 4) xyxy, the box matched to each anchor; R = sum of Ri.
        fg_mask: (N, R) bool, which anchors count; ``...`` (Ellipsis): all do.
        box_reg_loss_type (str): "smooth_l1" on the deltas, or "giou", "diou", "ciou" on the boxes.
        smooth_l1_beta (float): where smooth L1 turns from quadratic to linear; 0 for L1.

    Returns:
        Tensor: scalar.
    """
    sources = torch.cat([a.tensor if isinstance(a, Boxes) else a for a in anchors])
    deltas = cat(pred_anchor_deltas, dim=1)
    targets = torch.stack(gt_boxes)
    if fg_mask is ...:
        sources = sources.repeat(len(targets), 1)
        deltas, targets = deltas.flatten(0, 1), targets.flatten(0, 1)
    else:
        # The few foreground anchors are picked before any box is encoded or decoded.
        foreground = fg_mask.nonzero(as_tuple=True)
        sources, deltas, targets = sources[foreground[1]], deltas[foreground], targets[foreground]
    if box_reg_loss_type == "smooth_l1":
        targets = box2box_transform.get_deltas(sources, targets)
        return smooth_l1_loss(deltas, targets, beta=smooth_l1_beta, reduction="sum")
    if box_reg_loss_type in _IOU_LOSSES:
        boxes = box2box_transform.apply_deltas(deltas, sources)
        return _IOU_LOSSES[box_reg_loss_type](boxes, targets, reduction="sum")
    raise ValueError(f"Invalid dense box regression loss type '{box_reg_loss_type}': not smooth_l1, giou, diou or ciou")
