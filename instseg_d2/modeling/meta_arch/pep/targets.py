"""PEP: which cell of the feature maps stands for which object, and the objects' masks to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch.nn import functional as F

from ..fcos.targets import mask_or_box_centers

REGIONS = ("center", "mask")
# Full-size masks that are looked at together: 16 of 800 x 1344 px take 70 MB as float32.
_CHUNK = 16


@dataclass(frozen=True)
class CellGrid:
    """The cells of all levels, laid over the padded images of a batch.

    Every level covers the whole image: an (h, w) map has cells of (height / h, width / w) pixels. R counts the cells
    of all levels, finest level first, each level row by row.

    Attributes:
        shapes: per level (rows, columns).
        height, width: of the padded images, pixels.
        device: where the tensors are.
    """

    shapes: tuple[tuple[int, int], ...]
    height: int
    width: int
    device: torch.device

    @property
    def levels(self) -> torch.Tensor:
        """(R,) int64, the level of each cell."""
        counts = torch.tensor([rows * columns for rows, columns in self.shapes], device=self.device)
        return torch.arange(len(self.shapes), device=self.device).repeat_interleave(counts)

    @property
    def cell_sizes(self) -> torch.Tensor:
        """(R, 2) float32, width and height of each cell, pixels."""
        sizes = [(self.width / columns, self.height / rows) for rows, columns in self.shapes]
        return torch.tensor(sizes, device=self.device)[self.levels]

    @property
    def centers(self) -> torch.Tensor:
        """(R, 2) float32, the middle of each cell, xy pixels."""
        indices = []
        for rows, columns in self.shapes:
            row, column = torch.meshgrid(
                torch.arange(rows, device=self.device), torch.arange(columns, device=self.device), indexing="ij"
            )
            indices.append(torch.stack([column.flatten(), row.flatten()], dim=1))
        return (torch.cat(indices) + 0.5) * self.cell_sizes

    def normalized(self, points: torch.Tensor) -> torch.Tensor:
        """Points (..., 2), xy pixels, as coordinates that are -1 and 1 at the borders of the padded image."""
        return points / points.new_tensor([self.width, self.height]) * 2 - 1


@dataclass(frozen=True)
class CellTargets:
    """What the cells of one image have to predict.

    Attributes:
        labels: (R,) int64 class, the number of classes for background.
        owners: (R,) int64 index of the object whose descriptor the cell gives, -1 for none.
    """

    labels: torch.Tensor
    owners: torch.Tensor


def prepare_truth(instances: Instances) -> Instances:
    """Ground truth as PEP needs it: masks as bitmaps, and `gt_centers` (M, 2), xy pixels.

    The centers are those of mass; of the box, where `gt_has_mask` hides the mask, or the mask is empty.

    Raises:
        DatasetError: there are no masks, and no `gt_has_mask` that says so.
    """
    truth = Instances(instances.image_size, **instances.get_fields())
    if len(truth) == 0:
        truth.gt_centers = truth.gt_boxes.tensor.new_zeros(0, 2)
        return truth
    if truth.has("gt_masks") and isinstance(truth.gt_masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(truth.gt_masks, *truth.image_size)
        truth.gt_masks = masks.to(truth.gt_boxes.device)
    parts = [truth[start : start + _CHUNK] for start in range(0, len(truth), _CHUNK)]
    truth.gt_centers = torch.cat([mask_or_box_centers(part) for part in parts])
    return truth


@torch.no_grad()
def mask_coverage(masks: torch.Tensor, shape: tuple[int, int], padded: tuple[int, int]) -> torch.Tensor:
    """How much of each cell of a map a mask covers.

    Args:
        masks: (M, H, W) bool, of an image that was padded on the right and below.
        shape: (h, w) of the map.
        padded: (height, width) that the map covers.

    Returns:
        (M, h, w) float32 in [0, 1].
    """
    below, right = padded[0] - masks.shape[1], padded[1] - masks.shape[2]
    parts = [
        F.adaptive_avg_pool2d(F.pad(part.float(), (0, right, 0, below))[:, None], shape)[:, 0]
        for part in masks.split(_CHUNK)
    ]
    return torch.cat(parts) if parts else masks.new_zeros(0, *shape, dtype=torch.float32)


@torch.no_grad()
def mask_targets(masks: torch.Tensor, shape: tuple[int, int], padded: tuple[int, int]) -> torch.Tensor:
    """Masks at the size of a map: the cells that are covered by a half or more.

    Of an object too small for that, the cells it covers most: its target is not empty.

    Args and the shape (M, h, w) as of `mask_coverage`.

    Returns:
        float32, 0 or 1.
    """
    coverage = mask_coverage(masks, shape, padded)
    most = coverage.flatten(1).amax(dim=1) if coverage.numel() else coverage.new_zeros(len(coverage))
    enough = coverage >= most.clamp(max=0.5)[:, None, None]
    return (enough & (coverage > 0)).float()


class CellAssigner:
    """Gives every cell the object that it stands for; where objects overlap, the smaller box wins.

    Objects go to levels by size, and with overlapping ranges to two: purifying then has duplicates to join. The paper
    names no rule; levels, sizes and the central region are those of SOLOv2 (arXiv:2003.10152).

    Args:
        num_classes: label of the background.
        scale_ranges: per level (least, most) square root of box area, pixels, both included. Sizes beyond all ranges
            count as the nearest that is in one.
        sigma: side of the central region as a share of the box's.
        reach: the central region has at most that many cells in each direction from the cell of the center of mass,
            which is always in it.
        semantic_region: cells that have to predict the class: the central region, "center"; or the "mask", as printed:
            cells covered by a half or more, and the one of the center.
        descriptor_region: the same for cells that may give an object's descriptor.

    Raises:
        ValueError: an unknown region.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        scale_ranges: Sequence[Sequence[float]],
        sigma: float = 0.2,
        reach: int = 1,
        semantic_region: str = "center",
        descriptor_region: str = "center",
    ):
        for region in (semantic_region, descriptor_region):
            if region not in REGIONS:
                raise ValueError(f"region '{region}': must be one of {REGIONS}")
        self.num_classes = num_classes
        self.scale_ranges = [tuple(ends) for ends in scale_ranges]
        self.sigma = sigma
        self.reach = reach
        self.semantic_region = semantic_region
        self.descriptor_region = descriptor_region

    @torch.no_grad()
    def __call__(self, truth: Instances, grid: CellGrid) -> CellTargets:
        """Assign the cells of one image.

        Args:
            truth: from `prepare_truth`, M >= 0 objects.
            grid: of the batch; as many levels as ranges.
        """
        owners = {
            region: self._owners(truth, grid, region) for region in {self.semantic_region, self.descriptor_region}
        }
        classes = torch.cat([truth.gt_classes, truth.gt_classes.new_full((1,), self.num_classes)])
        return CellTargets(classes[owners[self.semantic_region]], owners[self.descriptor_region])

    def levels_of(self, boxes: Boxes) -> torch.Tensor:
        """(M, L) bool, on which levels objects of these boxes are."""
        ends = boxes.tensor.new_tensor(self.scale_ranges)
        sizes = boxes.area().sqrt().clamp(ends[:, 0].min(), ends[:, 1].max())[:, None]
        return (sizes >= ends[:, 0]) & (sizes <= ends[:, 1])

    def central_cells(self, boxes: Boxes, centers: torch.Tensor, grid: CellGrid, level: int) -> torch.Tensor:
        """(M, h, w) bool, the central region of each box on a level, around its center (M, 2)."""
        rows, columns = grid.shapes[level]
        counts, size = centers.new_tensor([columns, rows]), centers.new_tensor([grid.width, grid.height])
        half = self.sigma / 2 * (boxes.tensor[:, 2:] - boxes.tensor[:, :2])
        # Multiplied first: a center on the border of two cells must not fall short of it by rounding.
        low, middle, high = ((centers + offset) * counts / size for offset in (-half, 0, half))
        middle = middle.floor().clamp(min=0).minimum(counts - 1)
        low, high = low.floor().maximum(middle - self.reach), high.floor().minimum(middle + self.reach)
        x, y = (torch.arange(count, device=grid.device) for count in (columns, rows))
        in_x, in_y = (
            (index >= low[:, axis, None]) & (index <= high[:, axis, None]) for axis, index in ((0, x), (1, y))
        )
        return in_y[:, :, None] & in_x[:, None, :]

    @torch.no_grad()
    def best_cells(self, boxes: Boxes, scores: torch.Tensor, grid: CellGrid) -> torch.Tensor:
        """The cell that speaks for each box: of those in the middle of it, the one of the highest score.

        Args:
            boxes: B of one image, xyxy pixels.
            scores: (B, R).
            grid: of the batch.

        Returns:
            (B,) int64.
        """
        centers, on_level = boxes.get_centers(), self.levels_of(boxes)
        cells = [
            (self.central_cells(boxes, centers, grid, level) & on_level[:, level, None, None]).flatten(1)
            for level in range(len(grid.shapes))
        ]
        return scores.masked_fill(~torch.cat(cells, dim=1), -1).argmax(dim=1)

    def _owners(self, truth: Instances, grid: CellGrid, region: str) -> torch.Tensor:
        """(R,) index of the object of each cell, -1 for none."""
        if len(truth) == 0:
            return torch.full((len(grid.levels),), -1, dtype=torch.int64, device=grid.device)
        boxes = truth.gt_boxes
        # Smaller boxes have higher priorities, 1 to M.
        priority = boxes.area().argsort(descending=True, stable=True).argsort() + 1
        on_level = self.levels_of(boxes)
        by_priority = torch.cat([priority.new_full((1,), -1), priority.argsort()])
        owners = []
        for level, shape in enumerate(grid.shapes):
            cells = self.central_cells(boxes, truth.gt_centers, grid, level)
            if region == "mask":
                cells = self._mask_cells(truth, grid, level, shape)
            cells &= on_level[:, level, None, None]
            owners.append(by_priority[(cells * priority[:, None, None]).amax(dim=0).flatten()])
        return torch.cat(owners)

    def _mask_cells(self, truth: Instances, grid: CellGrid, level: int, shape: tuple[int, int]) -> torch.Tensor:
        """(M, h, w) bool, cells that the masks cover by a half, and those of the centers."""
        points = Boxes(truth.gt_centers.repeat(1, 2))
        own = self.central_cells(points, truth.gt_centers, grid, level)
        if not truth.has("gt_masks"):
            return own
        masks = truth.gt_masks.tensor.to(grid.device)
        return own | (mask_coverage(masks, shape, (grid.height, grid.width)) >= 0.5)


@torch.no_grad()
def sample_originals(scores: torch.Tensor, owners: torch.Tensor, *, per_object: int, limit: int) -> torch.Tensor:
    """Draw the original set that one image trains with: the best cells of each object.

    It is never empty where there are objects, and, with two cells an object, has the duplicates that purifying learns
    to join. If it were larger than the limit, objects lose their second cells first, then random objects all cells.

    Args:
        scores: (R,) how sure each cell is of its object.
        owners: (R,) int64, -1 for none.
        per_object: cells of an object at most.
        limit: cells at most.

    Returns:
        (n,) int64 cells.
    """
    cells = (owners >= 0).nonzero(as_tuple=True)[0]
    cells = cells[scores[cells].argsort(descending=True, stable=True)]
    # Best first within each object, objects one after the other.
    cells = cells[owners[cells].argsort(stable=True)]
    sorted_owners = owners[cells]
    first = torch.searchsorted(sorted_owners, sorted_owners)
    rank = torch.arange(len(cells), device=cells.device) - first
    cells, rank = cells[rank < per_object], rank[rank < per_object]
    order = (rank + torch.rand(len(cells), device=cells.device)).argsort()
    return cells[order[:limit]]
