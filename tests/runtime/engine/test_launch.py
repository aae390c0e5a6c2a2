"""Starting processes: the single-process path, argument checks, and a real job of two CPU processes."""

import os
import subprocess
import sys

import pytest
from detectron2.engine import DEFAULT_TIMEOUT, launch

JOB = """
import sys
import torch
from torch import nn
from detectron2.engine import SimpleTrainer, create_ddp_model, launch
from detectron2.utils import comm

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
    def forward(self, x):
        return {"loss_a": self.w * x, "loss_b": 2.0 * self.w}

def job(folder):
    rank = comm.get_rank()
    assert (comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()) == (2, rank, 2)
    plain = Scale()
    ddp = create_ddp_model(plain, broadcast_buffers=False) if folder else plain
    assert isinstance(ddp, nn.parallel.DistributedDataParallel)
    data = iter(lambda: torch.tensor(1.0 + 4.0 * rank), None)
    trainer = SimpleTrainer(ddp, data, torch.optim.SGD(ddp.parameters(), 0.1))
    trainer.train(0, 1)
    stored = {k: v[0] for k, v in trainer.storage.latest().items() if "time" not in k}
    with open(f"{folder}/{rank}", "w") as f:
        f.write(repr((round(plain.w.item(), 5), stored)))

if __name__ == "__main__":
    launch(job, 2, dist_url="auto", args=(sys.argv[1],))
"""


def test_one_process_runs_here_and_makes_no_group():
    seen = []
    launch(lambda a, b: seen.append((a, b, os.getpid())), 1, args=(1, 2))
    assert seen == [(1, 2, os.getpid())]
    assert DEFAULT_TIMEOUT.total_seconds() == 1800


def test_automatic_port_is_for_one_machine():
    with pytest.raises((ValueError, AssertionError), match="auto"):
        launch(print, 1, num_machines=2, dist_url="auto")


@pytest.mark.slow
@pytest.mark.bundled_only
def test_two_cpu_processes_average_gradients_and_losses(tmp_path):
    """Inputs 1 and 5: gradients 3 and 7, mean 5, so w = 1 - 0.5; stored losses are means over ranks, on rank 0 only."""
    script = tmp_path / "job.py"
    script.write_text(JOB)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0").read_text() == repr((0.5, {"total_loss": 5.0, "loss_a": 3.0, "loss_b": 2.0}))
    assert (tmp_path / "1").read_text() == repr((0.5, {}))


@pytest.mark.slow
def test_error_of_a_process_reaches_the_caller(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "from detectron2.engine import launch\n"
        "def job():\n    raise KeyError('lost')\n"
        "if __name__ == '__main__':\n    launch(job, 2, dist_url='auto')\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert "KeyError: 'lost'" in done.stderr
