"""Means over processes: one process, and two that talk over Gloo."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from instseg_d2.layers.ranks import mean_over_ranks


def test_one_process_gets_its_own_values_back():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = mean_over_ranks(values)
    assert mean.tolist() == [1.0, 2.0]
    assert not mean.requires_grad
    mean += 1
    assert values.tolist() == [1.0, 2.0]


def _job(rank: int, meeting_file: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting_file}", rank=rank, world_size=2)
    values = torch.tensor([1.0 + 4.0 * rank, 0.0])
    assert mean_over_ranks(values).tolist() == [3.0, 0.0]
    assert values.tolist() == [1.0 + 4.0 * rank, 0.0]
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_get_the_same_mean(tmp_path):
    mp.start_processes(_job, args=(str(tmp_path / "meeting"),), nprocs=2, start_method="fork")
