"""Which cell of SOLOv2's grids predicts which object."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.layers.mask_centers import mass_centers
from instseg_d2.layers.mask_scaling import shrink_masks

from ..base import ground_truth_masks, visible_masks

# Masks of which float copies exist at a time.
_MASKS_AT_A_TIME = 16


@dataclass(frozen=True)
class GridTargets:
    """What the cells of one image have to predict.

    C = cells of all grids, each grid row by row, in the order of the levels; M = objects of the image.

    Attributes:
        labels: (C,) int64 class, the number of classes for background. Of several objects in a cell the last counts.
        cells: (P,) int64, the cells whose kernel is trained; a cell is listed once for each of its objects.
        objects: (P,) int64, the object of each, which may be seen and is not too small for the mask features.
        masks: (M, h, w) bool at the size of the mask features.
    """

    labels: torch.Tensor
    cells: torch.Tensor
    objects: torch.Tensor
    masks: torch.Tensor

    def sample(self, limit: int) -> "GridTargets":
        """At most `limit` of the P pairs, drawn at random."""
        if len(self.cells) <= limit:
            return self
        chosen = torch.randperm(len(self.cells), device=self.cells.device)[:limit]
        return GridTargets(self.labels, self.cells[chosen], self.objects[chosen], self.masks)


class GridAssigner:
    """Gives objects to cells as SOLOv2 does (SOLO, arXiv:1912.04488, Sec. 3.3.1).

    An object belongs to each level whose range its size lies in: one or two, as ranges overlap. There it takes the
    cell that its center of mass lies in, and those of the eight around that its central region touches.

    The cells of an image divide the padded input of the network into S x S equal parts.

    Args:
        grid_numbers: S of each level.
        scale_ranges: per level the (lowest, highest) square root of the box area in pixels, both inclusive; without
            gaps.
        center_size: side of the central region as a share of the box's sides; the paper's epsilon.

    Raises:
        ValueError: there are not as many ranges as grids, or the ranges have a gap.
    """

    def __init__(
        self,
        *,
        grid_numbers: Sequence[int] = (40, 36, 24, 16, 12),
        scale_ranges: Sequence[tuple[float, float]] = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
        center_size: float = 0.2,
    ):
        self.grid_numbers = list(grid_numbers)
        self.scale_ranges = [tuple(ends) for ends in scale_ranges]
        self.center_size = center_size
        if len(self.grid_numbers) != len(self.scale_ranges):
            raise ValueError(f"{len(self.grid_numbers)} grid_numbers, but {len(self.scale_ranges)} scale_ranges")
        ends = sorted(self.scale_ranges)
        for index, (low, _) in enumerate(ends[1:], start=1):
            if low > max(high for _, high in ends[:index]):
                raise ValueError(
                    f"scale_ranges {ends} have a gap below {low}: objects of that size would have no level"
                )

    @property
    def num_cells(self) -> int:
        """C, over all levels."""
        return sum(number**2 for number in self.grid_numbers)

    def levels(self, boxes: torch.Tensor) -> torch.Tensor:
        """Whether each object (M, 4), xyxy pixels, belongs to each level: (M, L) bool, true for one level at least.

        A size beyond all ranges counts as the nearest that is in one.
        """
        low, high = boxes.new_tensor(self.scale_ranges).unbind(dim=1)
        sizes = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt().clamp(low.min(), high.max())
        return (sizes[:, None] >= low) & (sizes[:, None] <= high)

    def central_cells(
        self, boxes: torch.Tensor, centers: torch.Tensor, padded_size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The 3x3 cells around the center of each object on every level, whether the object belongs there or not.

        Args:
            boxes: (M, 4) xyxy pixels.
            centers: (M, 2) xy pixels.
            padded_size: (height, width) of the network's input.

        Returns:
            (M, L, 9) int64 index among all cells, arbitrary where the second result, (M, L, 9) bool, is False: outside
            of the grid, or not touched by the central region.
        """
        numbers = torch.tensor(self.grid_numbers, device=boxes.device)
        starts = numbers.square().cumsum(dim=0) - numbers.square()
        width_height = boxes.new_tensor([padded_size[1], padded_size[0]])
        last = (numbers - 1)[:, None]

        def cells_at(points: torch.Tensor) -> torch.Tensor:
            # Multiplied first: a center on the border of two cells must not fall short of it by rounding.
            cells = (points[:, None] * numbers[:, None] / width_height).floor().long()
            return cells.clamp(min=0).minimum(last)

        half = (boxes[:, 2:] - boxes[:, :2]) * (self.center_size / 2)
        middle = cells_at(centers)  # (M, L, 2) column and row
        around = torch.cartesian_prod(*[torch.arange(-1, 2, device=boxes.device)] * 2).flip(1)  # (9, 2)
        cells = middle[:, :, None] + around
        touched = (cells >= cells_at(centers - half)[:, :, None]) & (cells <= cells_at(centers + half)[:, :, None])
        index = starts[:, None] + cells[..., 1] * numbers[:, None] + cells[..., 0]
        return index, touched.all(dim=-1)

    def best_cells(self, boxes: Boxes, scores: torch.Tensor, padded_size: tuple[int, int]) -> torch.Tensor:
        """Of the cells that objects with their middle in the middle of the boxes have, those of highest score.

        Args:
            boxes: of M objects, xyxy pixels.
            scores: (M, C), 0 or more, of each object in each cell.
            padded_size: (height, width) of the network's input.

        Returns:
            (M,) int64.
        """
        cells, touched = self.central_cells(boxes.tensor, boxes.get_centers(), padded_size)
        allowed = touched & self.levels(boxes.tensor)[:, :, None]
        cells, allowed = cells.flatten(start_dim=1), allowed.flatten(start_dim=1)
        best = scores.gather(1, cells.masked_fill(~allowed, 0)).masked_fill(~allowed, -1).argmax(dim=1, keepdim=True)
        return cells.gather(1, best)[:, 0]

    @torch.no_grad()
    def assign(self, instances: Instances, *, num_classes: int, stride: int, mask_size: tuple[int, int]) -> GridTargets:
        """Compute the targets of one image, on the device of its boxes.

        Objects without a pixel in the image are nowhere.

        Args:
            instances: ground truth with `gt_boxes`, `gt_classes` and `gt_masks` (BitMasks or PolygonMasks), perhaps
                empty. With `gt_has_mask`, an object whose mask is hidden is centered in its box and trains no kernel.
            num_classes: the label of background.
            stride: of the mask features, pixels.
            mask_size: (height, width) of the mask features, which cover the padded input.

        Raises:
            DatasetError: there are objects, but no masks.
        """
        classes = instances.gt_classes
        labels = torch.full((self.num_cells,), num_classes, dtype=torch.int64, device=classes.device)
        if len(instances) == 0:
            nothing = labels.new_zeros(0)
            return GridTargets(labels, nothing, nothing, labels.new_zeros((0, *mask_size), dtype=torch.bool))
        masks, visible = ground_truth_masks(instances), visible_masks(instances)
        centers = _centers(instances, masks, visible)
        cells, objects = self._positives(
            instances.gt_boxes.tensor, centers, (mask_size[0] * stride, mask_size[1] * stride)
        )
        owners = torch.full_like(labels, -1).scatter_reduce(0, cells, objects, "amax")
        # A last entry for background, which index -1 picks.
        labels = torch.cat([classes, classes.new_full((1,), num_classes)])[owners]
        small = shrink_masks(masks, stride=stride, size=mask_size)
        trained = (visible & small.flatten(start_dim=1).any(dim=1))[objects]
        return GridTargets(labels, cells[trained], objects[trained], small)

    def _positives(
        self, boxes: torch.Tensor, centers: torch.Tensor, padded_size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cells and their objects, (P,) int64 both; level by level, and there object by object."""
        cells, touched = self.central_cells(boxes, centers.nan_to_num(), padded_size)
        belongs = self.levels(boxes) & centers.isfinite().all(dim=1)[:, None]
        positive = (touched & belongs[:, :, None]).transpose(0, 1)
        _, objects, _ = positive.nonzero(as_tuple=True)
        return cells.transpose(0, 1)[positive], objects


def _centers(instances: Instances, masks: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """(M, 2) xy pixels: centers of mass, of the box where the mask is hidden, NaN where it is empty."""
    of_mass = torch.cat([mass_centers(part) for part in masks.split(_MASKS_AT_A_TIME)])
    return torch.where(visible[:, None], of_mass, instances.gt_boxes.get_centers())
