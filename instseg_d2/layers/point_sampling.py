"""Maps looked at in a few points, chosen where the prediction is unsure (PointRend, arXiv:1912.08193, Sec. 3.1)."""

import torch
from torch.nn import functional as F

# Of the largest float copy of maps that is made at a time.
_ELEMENTS = 2**25


def sample_points(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear values of maps in points.

    Args:
        maps: (K, H, W), of any type; bool and integer maps are taken as float32, some at a time.
        points: (K, P, 2) x, y of each map, or (1, P, 2) of all; (0, 0) is the upper left corner of a map, (1, 1) the
            lower right one. Beyond the border maps are 0.

    Returns:
        (K, P).
    """
    grids = (2 * points - 1).expand(len(maps), -1, -1)[:, :, None]
    if maps.is_floating_point():
        return _sample(maps, grids.to(maps))
    parts = max(_ELEMENTS // max(maps[0].numel() if len(maps) else 1, 1), 1)
    found = [_sample(some.float(), own) for some, own in zip(maps.split(parts), grids.split(parts), strict=True)]
    return torch.cat(found)


def _sample(maps: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(maps[:, None], grids, align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(
    logits: torch.Tensor, count: int, *, oversampling: float = 3.0, importance: float = 0.75
) -> torch.Tensor:
    """Draw points, most of them where a mask is unsure.

    Args:
        logits: (K, H, W) of masks; unsure where near 0.
        count: P.
        oversampling: how many times as many random points the unsure ones are chosen from.
        importance: share of the points that are chosen so; the others are anywhere.

    Returns:
        (K, count, 2) x, y in [0, 1).
    """
    candidates = torch.rand(len(logits), int(count * oversampling), 2, device=logits.device)
    unsure = -sample_points(logits, candidates).abs()
    chosen = unsure.topk(int(importance * count), dim=1).indices
    picked = candidates.gather(1, chosen[:, :, None].expand(-1, -1, 2))
    anywhere = torch.rand(len(logits), count - picked.shape[1], 2, device=logits.device)
    return torch.cat([picked, anywhere], dim=1)
