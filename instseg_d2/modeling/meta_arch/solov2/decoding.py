"""From what SOLOv2 predicts in the cells of its grids to instances."""

import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.layers.dynamic_conv import convolve_shared
from instseg_d2.layers.mask_boxes import tight_boxes
from instseg_d2.layers.mask_scaling import enlarge_masks
from instseg_d2.layers.matrix_nms import matrix_nms

# Pixels of soft masks that are held at a time: 64 MiB of floats.
_FLOATS = 2**24


def soft_masks(mask_features: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Masks (K, h, w) float32, probabilities, of kernels (K, D) on the mask features (D, h, w) of their image."""
    return convolve_shared(mask_features[None], kernels[:, None], [len(kernels)])[:, 0].float().sigmoid()


class GridDecoder:
    """Chooses cells, makes their masks, and removes duplicates by matrix NMS (SOLOv2, arXiv:2003.10152, Sec. 3.4).

    Memory stays bounded: a cell has one mask, whatever the number of its classes, masks that only compete are kept
    with one byte a pixel, and soft masks are made again for the winners.

    Args:
        score_thresh: a class counts in a cell from more than this probability on.
        mask_thresh: foreground is what lies above this probability.
        nms_topk: so many of the best masks of an image enter the NMS.
        nms_kernel: see `matrix_nms`.
        nms_sigma: see `matrix_nms`.
        nms_score_thresh: lowest score after the NMS.
        max_per_image: so many of the best masks are the result.
    """

    def __init__(
        self,
        *,
        score_thresh: float = 0.1,
        mask_thresh: float = 0.5,
        nms_topk: int = 500,
        nms_kernel: str = "gaussian",
        nms_sigma: float = 2.0,
        nms_score_thresh: float = 0.05,
        max_per_image: int = 100,
    ):
        self.score_thresh = score_thresh
        self.mask_thresh = mask_thresh
        self.nms_topk = nms_topk
        self.nms_kernel = nms_kernel
        self.nms_sigma = nms_sigma
        self.nms_score_thresh = nms_score_thresh
        self.max_per_image = max_per_image

    @torch.no_grad()
    def decode(
        self,
        probabilities: torch.Tensor,
        kernels: torch.Tensor,
        mask_features: torch.Tensor,
        *,
        min_areas: torch.Tensor,
        image_size: tuple[int, int],
    ) -> Instances:
        """Find the objects of one image.

        Args:
            probabilities: (C, K) of the classes in each cell, after `point_nms`.
            kernels: (C, D).
            mask_features: (D, h, w), over the padded input.
            min_areas: (C,); a mask of a cell must have more pixels of the mask features than this, 0 or more.
            image_size: (height, width) of the image without padding.

        Returns:
            best first, `scores` (class probability times mean probability in the mask, lowered by the NMS),
            `pred_classes`, and `pred_masks` (D, h, w) float32, probabilities over the padded input: see `finish`.
        """
        cells, classes = (probabilities > self.score_thresh).nonzero(as_tuple=True)
        used, mask_of = cells.unique(return_inverse=True)
        masks, areas, maskness = self._competing_masks(mask_features, kernels[used])
        scores = probabilities[cells, classes].float() * maskness[mask_of]
        large = (areas > min_areas[used])[mask_of]
        best = scores.masked_fill(~large, -1).argsort(descending=True, stable=True)[: self.nms_topk]
        best = best[large[best]]
        cells, classes, mask_of = cells[best], classes[best], mask_of[best]
        scores = matrix_nms(masks[mask_of], classes, scores[best], kernel=self.nms_kernel, sigma=self.nms_sigma)
        best = scores.argsort(descending=True, stable=True)[: self.max_per_image]
        best = best[scores[best] >= self.nms_score_thresh]
        return Instances(
            image_size,
            scores=scores[best],
            pred_classes=classes[best],
            pred_masks=soft_masks(mask_features, kernels[cells[best]]),
        )

    def _competing_masks(
        self, mask_features: torch.Tensor, kernels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masks (R, h, w) bool of R kernels, their areas (R,), and the mean probability in each (R,), 0 if empty."""
        masks, areas, maskness = [], [], []
        for part in kernels.split(max(_FLOATS // mask_features[0].numel(), 1)):
            soft = soft_masks(mask_features, part)
            masks.append(soft > self.mask_thresh)
            areas.append(masks[-1].sum(dim=(1, 2)))
            maskness.append((soft * masks[-1]).sum(dim=(1, 2)) / areas[-1].clamp(min=1))
        return torch.cat(masks), torch.cat(areas), torch.cat(maskness)

    @torch.no_grad()
    def finish(
        self, instances: Instances, *, stride: int, output_size: tuple[int, int], keep_boxes: bool = False
    ) -> Instances:
        """Bring the masks of an image to the size of the output.

        Args:
            instances: with `pred_masks` (R, h, w), probabilities on mask features over the padded input.
            stride: of the mask features.
            output_size: (height, width).
            keep_boxes: the instances have `pred_boxes`, in pixels of the input, which are rescaled and kept; without,
                boxes are drawn tight around the masks, and instances without a pixel in the output are left out.

        Returns:
            the instances with `pred_masks` (R', height, width) bool and `pred_boxes`, xyxy pixels of the output.
        """
        masks = enlarge_masks(
            instances.pred_masks,
            stride=stride,
            image_size=instances.image_size,
            output_size=output_size,
            threshold=self.mask_thresh,
        )
        fields = {**instances.get_fields(), "pred_masks": masks}
        if keep_boxes:
            boxes = instances.pred_boxes.clone()
            boxes.scale(output_size[1] / instances.image_size[1], output_size[0] / instances.image_size[0])
            boxes.clip(output_size)
            return Instances(output_size, **{**fields, "pred_boxes": boxes})
        boxes = Boxes(tight_boxes(masks))
        there = boxes.nonempty()
        result = Instances(output_size, **{**fields, "pred_boxes": boxes})
        return result if there.all() else result[there]
