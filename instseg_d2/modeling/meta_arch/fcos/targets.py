"""Which location of the feature maps predicts which object: the data that FCOS and its mask heads share."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from instseg_d2.data.errors import DatasetError
from instseg_d2.layers.mask_centers import mass_centers


class CenteredBoxes(Boxes):
    """Boxes whose centers, around which locations are sampled, are given instead of computed.

    Args:
        tensor: (M, 4) xyxy pixels.
        centers: (M, 2) xy pixels.
    """

    def __init__(self, tensor: torch.Tensor, centers: torch.Tensor):
        super().__init__(tensor)
        self.centers = centers

    def get_centers(self) -> torch.Tensor:
        return self.centers


@dataclass(frozen=True)
class LocationTargets:
    """What each location of a batch has to predict.

    N = images, R = locations of all levels: finest level first, each level row by row.

    Attributes:
        anchors: per level, the location as a square of the size of the level's stride (xyxy pixels).
        matched: (N, R) int64, index of the ground truth **within its image**, -1 for background.
        labels: (N, R) int64 class, the number of classes for background, -1 for background that is to be ignored.
        boxes: (N, R, 4) xyxy pixels of the matched ground truth, arbitrary for background.
        image_sizes: per image (height, width).
    """

    anchors: list[Boxes]
    matched: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor
    image_sizes: list[tuple[int, int]]

    @property
    def locations(self) -> torch.Tensor:
        """(R, 2) xy pixels."""
        return Boxes.cat(self.anchors).get_centers()

    @property
    def levels(self) -> torch.Tensor:
        """(R,) int64, index of the level in `head_in_features`."""
        sizes = torch.tensor([len(level) for level in self.anchors], device=self.matched.device)
        return torch.repeat_interleave(sizes, output_size=self.matched.shape[1])

    def positive_indices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and location, both (K,) int64, of the positives of the batch; sorted by image, then by location."""
        image, location = (self.matched >= 0).nonzero(as_tuple=True)
        return image, location


def batch_gt_inds(positives: Sequence[Instances], gt_instances: Sequence[Instances]) -> torch.Tensor:
    """Ground-truth index of every positive in the concatenation of the batch's ground truth.

    Args:
        positives: per image, with `gt_inds` (K_i,), indices within the image.
        gt_instances: per image, the ground truth that was matched.

    Returns:
        (K,) int64, K = sum of K_i, in the order of `torch.cat` over the images: indexes, for example,
        `torch.cat([x.gt_classes for x in gt_instances])`.
    """
    before = accumulate((len(x) for x in gt_instances), initial=0)
    return torch.cat([found.gt_inds + start for found, start in zip(positives, before, strict=False)])


def mask_or_box_centers(instances: Instances) -> torch.Tensor:
    """Centers of mass of the ground-truth masks.

    The box's center stands in where `gt_has_mask` forbids to look at the mask, which would leak into the training of
    the detector, and where a mask is empty.

    Args:
        instances: one or more, with `gt_boxes`, `gt_masks` (BitMasks or PolygonMasks) and perhaps `gt_has_mask`.

    Returns:
        (M, 2) xy pixels.

    Raises:
        DatasetError: there are no masks, and no `gt_has_mask` that says so.
    """
    centers = instances.gt_boxes.get_centers()
    allowed = (
        instances.gt_has_mask if instances.has("gt_has_mask") else torch.ones_like(centers[:, 0], dtype=torch.bool)
    )
    if not instances.has("gt_masks"):
        if not allowed.any():
            return centers
        raise DatasetError(
            f"center_sampling='mass' needs ground-truth masks, but an image of {instances.image_size} (height, width) "
            f"with {len(instances)} objects has none. Let the mapper give them (use_instance_mask=True), or set "
            "center_sampling='box'."
        )
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    of_mass = mass_centers(masks.tensor.to(centers.device))
    usable = allowed & of_mass.isfinite().all(dim=1)
    return torch.where(usable[:, None], of_mass, centers)
