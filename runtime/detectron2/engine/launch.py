"""Start one process per GPU (or per CPU worker) and join them in a torch.distributed group."""

import logging
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call `main_func(*args)` in every process of a job; to be called once on each machine.

    With one process in all, `main_func` runs in the calling process and no group is made. Otherwise the processes
    are spawned and form an NCCL group, or a Gloo group where no GPU is present, in which case
    `num_gpus_per_machine` simply counts processes.

    Args:
        main_func: an importable function (it is pickled for the spawned processes).
        num_gpus_per_machine: processes on each machine.
        num_machines: machines in the job.
        machine_rank: rank of this machine, from 0.
        dist_url: where the processes meet, e.g. ``tcp://10.0.0.1:29500``. ``auto`` picks a free local port (one
            machine only). None means ``env://``, or ``auto`` if the job has one machine and no MASTER_ADDR is set.
        args: positional arguments of `main_func`.
        timeout: how long a collective operation may wait.

    Raises:
        ValueError: ``auto`` with several machines, or more processes than GPUs on a machine that has GPUs.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return

    if dist_url is None and num_machines == 1 and "MASTER_ADDR" not in os.environ:
        dist_url = "auto"
    if dist_url == "auto":
        if num_machines != 1:
            raise ValueError("dist_url='auto' finds a port of this machine only: give a tcp:// address for several")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    elif num_machines > 1 and (dist_url or "").startswith("file://"):
        logging.getLogger(__name__).warning(
            "A file:// dist_url needs a shared file system with working locks; tcp:// is safer across machines."
        )

    num_cuda = torch.cuda.device_count()
    if 0 < num_cuda < num_gpus_per_machine:
        raise ValueError(f"{num_gpus_per_machine} processes were asked for, but this machine has {num_cuda} GPUs")

    mp.start_processes(
        _run_worker,
        args=(main_func, args, world_size, num_gpus_per_machine, machine_rank, dist_url, timeout),
        nprocs=num_gpus_per_machine,
        daemon=False,
    )


def _free_port() -> int:
    """A TCP port that nobody listens on right now; the system may hand it to another program later."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_worker(
    local_rank: int,
    main_func: Callable[..., Any],
    args: tuple,
    world_size: int,
    procs_per_machine: int,
    machine_rank: int,
    dist_url: str | None,
    timeout: timedelta,
) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        # Each process would otherwise start a thread for every core of the machine.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // procs_per_machine))

    try:
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=dist_url,
            rank=machine_rank * procs_per_machine + local_rank,
            world_size=world_size,
            timeout=timeout,
        )
    except Exception:
        logging.getLogger(__name__).error("Could not join the process group at %s", dist_url)
        raise

    comm.create_local_process_group(procs_per_machine)
    # Nobody enters main_func before all have arrived: its first collective must not spend its timeout on start-up.
    comm.synchronize()
    main_func(*args)
    dist.destroy_process_group()
