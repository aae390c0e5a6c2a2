"""Maps of what CPMask's affinities say: of one pixel, and of all pixels of an object together."""

import torch
from detectron2.structures import Instances
from torch.nn import functional as F


def object_affinity(instances: Instances) -> torch.Tensor | None:
    """Where the pixels of each predicted object look: the mean of their affinities, over what a uniform one would be.

    Args:
        instances: predictions with `pred_pixel_affinities` (N, H, W, H, W) and, for which pixels are the object's,
            `pred_soft_masks` (N, 1, M, M); without these all pixels count the same.

    Returns:
        (N, 1, H, W), of mean 1; None without affinities.
    """
    if not instances.has("pred_pixel_affinities"):
        return None
    affinities = instances.pred_pixel_affinities.float()
    height, width = affinities.shape[1:3]
    weights = torch.ones_like(affinities[..., 0, 0])
    if instances.has("pred_soft_masks"):
        soft = instances.pred_soft_masks.float().to(affinities.device)
        # A mask that is sure to be empty has no pixels of its own.
        weights = F.adaptive_avg_pool2d(soft, (height, width))[:, 0].clamp(min=1e-6)
    weights = weights / weights.sum(dim=(1, 2), keepdim=True)
    return height * width * torch.einsum("nij,nijkl->nkl", weights, affinities)[:, None]


def pixel_affinity(instances: Instances, point: tuple[float, float]) -> tuple[Instances, torch.Tensor]:
    """Where one pixel of the image looks, in each box that it lies in.

    Args:
        instances: predictions with `pred_boxes` (xyxy pixels) and `pred_pixel_affinities` (N, H, W, H, W).
        point: x and y, pixels.

    Returns:
        the K instances whose boxes hold the point, and the affinities (K, 1, H, W) of the cell that it falls into, over
        what a uniform one would be: their mean is 1.

    Raises:
        ValueError: there are no affinities.
    """
    if not instances.has("pred_pixel_affinities"):
        raise ValueError("the predictions have no affinities: they come from CPMask's head with keep_aux=True")
    boxes = instances.pred_boxes.tensor
    place = (torch.tensor(point, dtype=boxes.dtype, device=boxes.device) - boxes[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
    holding = ((place >= 0) & (place < 1)).all(dim=1)
    found = instances[holding]
    affinities = found.pred_pixel_affinities.float()
    height, width = affinities.shape[1:3]
    column, row = (place[holding] * place.new_tensor([width, height])).long().unbind(dim=1)
    return found, height * width * affinities[torch.arange(len(found), device=affinities.device), row, column][:, None]
