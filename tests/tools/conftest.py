"""The tools run as their users run them, in a process of their own from another folder, or in this one to save time."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instseg_d2.testing import write_tiny_coco

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_tool(tmp_path):
    """`run_tool("train_net.py", ...)` gives the finished process; `wait=False` the running one."""

    def run(name: str, *arguments: str, wait: bool = True):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
        if wait:
            return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env=env
        )

    return run


@pytest.fixture
def module(request, monkeypatch):
    """The tool that a test file is named after, as a module."""
    name = request.path.stem.removeprefix("test_")
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool(module, monkeypatch, capsys):
    """`tool(argument, ...)` runs its command line in this process and gives exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
        try:
            code = module.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def tiny_recipe(tmp_path):
    """A config file that trains a tiny Mask R-CNN on four images for six iterations."""
    json_file, images = write_tiny_coco(tmp_path / "data")
    path = tmp_path / "tiny.py"
    path.write_text(
        f"""
from instseg_d2.data import register_coco
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import tiny_mask_rcnn_config

_data = register_coco({tmp_path.name!r}, {str(json_file)!r}, {str(images)!r})
_cfg = get_config("Baselines/mask_rcnn_narrow_fpn_occshapes_quick")
dataloader, optimizer, lr_multiplier, train = (
    _cfg[key] for key in ("dataloader", "optimizer", "lr_multiplier", "train")
)
model = tiny_mask_rcnn_config(_data.num_classes)
dataloader.train.dataset.names = dataloader.test.dataset.names = _data.name
dataloader.train.update(total_batch_size=2, num_workers=0)
dataloader.test.num_workers = 0
# What only OccShapes has truth for.
del dataloader.evaluator["category_subsets"], dataloader.evaluator["occlusion_bins"], dataloader["further_evaluations"]
train.update(max_iter=6, log_period=1, device="cpu", output_dir={str(tmp_path / "out")!r})
train.checkpointer.period = 3
train.recipe.total_batch_size = 2
"""
    )
    return path
