"""Statistics over the processes of a distributed job."""

import torch
import torch.distributed as dist
from detectron2.utils import comm


@torch.no_grad()
def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Average a tensor of every process.

    All processes must call it, and with equal shapes: one that leaves it out lets the others wait for ever.

    Args:
        values: floating point, of any shape, on the device of the process group (any device in a single process).

    Returns:
        The mean, a new tensor of the same shape, without gradient, equal on all processes.
    """
    total = values.detach().clone()
    if comm.get_world_size() > 1:
        dist.all_reduce(total)
    return total / comm.get_world_size()
