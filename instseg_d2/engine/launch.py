"""Start a function on one process or many: plain, `--num-gpus`, or under `torchrun`."""

import os
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine import launch as spawn
from detectron2.utils import comm


def launch(function: Callable, args: Any) -> None:
    """Run `function(args)` in every process of the job.

    Under `torchrun` (it sets `LOCAL_RANK`) this process is one of the job's already and only joins the group: NCCL
    with GPUs, gloo without. Otherwise `args.num_gpus` processes are started on each of `args.num_machines` machines.

    Args:
        function: importable by name, since it is called in other processes.
        args: what `engine.arguments.training_parser` parsed.
    """
    if "LOCAL_RANK" not in os.environ:
        spawn(
            function,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    try:
        function(args)
    finally:
        torch.distributed.destroy_process_group()
