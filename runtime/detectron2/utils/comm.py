"""Ranks, barriers and object exchange between training processes; every call also works in a single process."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

# The ranks on this machine; made by create_local_process_group().
_LOCAL_PROCESS_GROUP = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes, 1 when not distributed."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Rank of this process among all, 0 when not distributed."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Whether this process has rank 0."""
    return get_rank() == 0


@functools.cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create one process group per machine, so that the `get_local_*` functions work.

    `detectron2.engine.launch` calls it; call it yourself, in every process, after
    ``torch.distributed.init_process_group`` when you start the processes in another way.

    Args:
        num_workers_per_machine: processes on each machine, usually the number of its GPUs.
    """
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None, "The local process group exists already, with another size."
    world_size = get_world_size()
    assert world_size % num_workers_per_machine == 0, (
        f"{world_size} processes cannot be split into machines of {num_workers_per_machine}."
    )
    # Every process has to take part in the creation of every group.
    for first in range(0, world_size, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group():
    """The torch process group of the ranks on this machine, e.g. for SyncBN within a machine."""
    assert _LOCAL_PROCESS_GROUP is not None, (
        "No local process group: start with detectron2.engine.launch(), or call "
        "comm.create_local_process_group(num_workers_per_machine) after init_process_group()."
    )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Rank of this process on its machine, 0 when not distributed."""
    return dist.get_rank(group=get_local_process_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Number of processes on this machine, 1 when not distributed."""
    return dist.get_world_size(group=get_local_process_group()) if _is_distributed() else 1


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # Without the device NCCL guesses one, and warns.
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.cache
def _get_global_gloo_group():
    """All ranks on gloo: objects travel through CPU memory and leave the GPU alone."""
    if dist.get_backend() == "nccl":
        return dist.new_group(backend="gloo")
    return dist.group.WORLD


def _exchange_group(group):
    """The group to exchange objects in and its size; a size of 1 asks for no communication."""
    if get_world_size() == 1:
        return None, 1
    group = _get_global_gloo_group() if group is None else group
    return group, dist.get_world_size(group)


def all_gather(data: Any, group=None) -> list[Any]:
    """Collect one picklable object from each rank, on every rank.

    Args:
        data: any picklable object.
        group: a torch process group, by default all ranks over gloo.
    """
    group, size = _exchange_group(group)
    if size == 1:
        return [data]
    collected = [None] * size
    dist.all_gather_object(collected, data, group=group)
    return collected


def gather(data: Any, dst: int = 0, group=None) -> list[Any]:
    """Collect one picklable object from each rank, on rank `dst`; the other ranks get an empty list.

    Args:
        data: any picklable object.
        dst: the receiving rank.
        group: a torch process group, by default all ranks over gloo.
    """
    group, size = _exchange_group(group)
    if size == 1:
        return [data]
    collected = [None] * size if dist.get_rank(group=group) == dst else None
    dist.gather_object(data, collected, dst=dst, group=group)
    return collected or []


def shared_random_seed() -> int:
    """A random number from NumPy's global generator of rank 0, the same on all ranks, which must all call this."""
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Sum (or average) a dict of scalar tensors over the ranks; only rank 0 gets the result.

    All ranks must give the same keys. The other ranks get a dict of unspecified values.
    """
    world_size = get_world_size()
    if world_size < 2:
        return input_dict
    names = sorted(input_dict)
    with torch.no_grad():
        total = torch.stack([input_dict[name] for name in names])
        dist.reduce(total, dst=0)
        if average and is_main_process():
            total /= world_size
    return dict(zip(names, total, strict=True))
