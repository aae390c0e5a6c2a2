"""Matrix NMS (SOLOv2, arXiv:2003.10152, Sec. 3.4): scores of overlapping masks sink, all at once."""

import torch

KERNELS = ("gaussian", "linear")

# Pixels of all masks that are held as floats at a time: 64 MiB.
_FLOATS = 2**24


def mask_ious(masks: torch.Tensor) -> torch.Tensor:
    """Intersection over union of every pair of masks.

    Args:
        masks: (N, H, W) bool, of fewer than 2^24 pixels each, up to which float32 counts exactly.

    Returns:
        (N, N) float32, symmetric; 0 where both masks are empty.
    """
    flat = masks.flatten(start_dim=1)
    overlaps = torch.zeros(len(flat), len(flat), device=flat.device)
    # Autocast would give the counts in 16 bits, which round above 256.
    with torch.autocast(flat.device.type, enabled=False):
        for part in flat.split(max(_FLOATS // max(len(flat), 1), 1), dim=1):
            pixels = part.float()
            overlaps += pixels @ pixels.T
    areas = overlaps.diagonal()
    unions = areas[:, None] + areas[None, :] - overlaps
    return overlaps / unions.clamp(min=1)


def matrix_nms(
    masks: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    *,
    kernel: str = "gaussian",
    sigma: float = 2.0,
) -> torch.Tensor:
    """Lower the score of each mask by its overlap with better masks of its class.

    A mask j keeps the share min over better masks i of f(iou_ij) / f(c_i), where c_i is the highest IoU of i with a
    mask better than i: what was itself suppressed suppresses less (Eq. 3 to 5). Masks of equal score rank in the order
    that they are given in.

    Args:
        masks: (N, H, W) bool, in any order.
        classes: (N,) integers; masks of different classes do not see each other.
        scores: (N,) in [0, 1].
        kernel: f: "gaussian", exp(-sigma iou^2), or "linear", 1 - iou.
        sigma: of the Gaussian; a factor, as in the released code, where the paper divides by it.

    Returns:
        (N,) float32, in the order of the input; never above the score given.

    Raises:
        ValueError: no such kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel is '{kernel}'; choose one of: {', '.join(KERNELS)}")
    scores = scores.float()
    if len(scores) == 0:
        return scores.clone()
    order = scores.argsort(descending=True, stable=True)
    classes = classes[order]
    same = classes[:, None] == classes[None, :]
    # [i, j]: overlap of j with a better mask i of its class.
    ious = (mask_ious(masks[order]) * same).triu(diagonal=1)
    compensation = ious.amax(dim=0)[:, None]
    if kernel == "gaussian":
        shares = torch.exp(sigma * (compensation.square() - ious.square()))
    else:
        # A copy of a better mask has compensation 1, and no say: the original has removed whatever it would remove.
        shares = (1 - ious) / (1 - compensation).clamp(min=1e-6)
    return torch.empty_like(scores).index_put_((order,), scores[order] * shares.amin(dim=0))
