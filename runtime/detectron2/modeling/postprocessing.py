"""From the resolution a model works at back to the resolution the caller asked for."""

import torch
from torch.nn import functional as F

from detectron2.structures import Instances, ROIMasks

__all__ = ["detector_postprocess", "sem_seg_postprocess"]


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Rescale the detections of one image, drop those whose box is empty after clipping, and paste their masks.

    Args:
        results: detections at the size the model saw (`results.image_size`), with `pred_boxes` or
            `proposal_boxes`. Their boxes are rescaled in place. `pred_masks`, if present, are probabilities,
            (N, 1, M, M) or :class:`ROIMasks`, each relative to its box.
        output_height: height of the result in pixels.
        output_width: width of the result in pixels.
        mask_threshold: a mask pixel is foreground from this probability on; negative: keep soft masks as uint8.

    Returns:
        detections of size (output_height, output_width); `pred_masks` is (N, output_height, output_width) bool.
    """
    scale_x = output_width / results.image_size[1]
    scale_y = output_height / results.image_size[0]
    results = Instances((output_height, output_width), **results.get_fields())

    box_field = next((name for name in ("pred_boxes", "proposal_boxes") if results.has(name)), None)
    assert box_field is not None, f"Nothing to rescale: no predicted boxes among {list(results.get_fields())}."
    boxes = results.get(box_field)
    boxes.scale(scale_x, scale_y)
    boxes.clip(results.image_size)
    # One index for all fields: a boolean mask would be searched (and the device waited for) once per field.
    results = results[boxes.nonempty().nonzero().squeeze(1)]

    if results.has("pred_masks"):
        roi_masks = results.pred_masks
        if not isinstance(roi_masks, ROIMasks):
            roi_masks = ROIMasks(roi_masks[:, 0])
        pasted = roi_masks.to_bitmasks(results.pred_boxes, output_height, output_width, mask_threshold)
        results.pred_masks = pasted.tensor
    if results.has("pred_keypoints"):
        keypoints = results.pred_keypoints
        keypoints[:, :, 0] *= scale_x
        keypoints[:, :, 1] *= scale_y
    return results


def sem_seg_postprocess(
    result: torch.Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> torch.Tensor:
    """Cut the padding off a dense prediction and resize it bilinearly.

    Args:
        result: (C, H, W) logits of the padded image.
        img_size: (height, width) of the image inside the padding.
        output_height: height of the result in pixels.
        output_width: width of the result in pixels.

    Returns:
        (C, output_height, output_width) logits.
    """
    height, width = img_size
    unpadded = result[None, :, :height, :width]
    return F.interpolate(unpadded, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]
