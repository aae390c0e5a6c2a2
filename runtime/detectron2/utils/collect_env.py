"""A report of the versions and devices that matter in a bug report: ``python -m detectron2.utils.collect_env``."""

import importlib
import os
import sys
from collections import Counter
from pathlib import Path

import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

_LIBRARIES = ("torchvision", "numpy", "PIL", "cv2", "fvcore", "iopath", "omegaconf", "pycocotools")


def get_env_module() -> tuple[str, str]:
    """Name and value of the environment variable that names the user's set-up module."""
    name = "DETECTRON2_ENV_MODULE"
    return name, os.environ.get(name, "<not set>")


def collect_torch_env() -> str:
    """How torch was built."""
    return torch.__config__.show()


def collect_env_info() -> str:
    """A table of the platform, the libraries and the GPUs, followed by how torch was built."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("detectron2", _version_of("detectron2")),
        ("detectron2._C", "none: this is the compile-free runtime"),
        get_env_module(),
        ("PyTorch", _version_of("torch")),
        ("PyTorch debug build", torch.version.debug),
        ("CUDA / ROCm of PyTorch", torch.version.cuda or torch.version.hip or "none"),
    ]
    rows += [(name, _version_of(name)) for name in _LIBRARIES]
    rows.append(("GPU available", str(torch.cuda.is_available())))
    if torch.cuda.is_available():
        gpus = Counter(_describe_gpu(i) for i in range(torch.cuda.device_count()))
        rows += [("GPU", f"{count} x {gpu}") for gpu, count in gpus.items()]
    return tabulate(rows) + "\n" + collect_torch_env()


def _version_of(library: str) -> str:
    try:
        module = importlib.import_module(library)
    except ImportError as e:
        return f"cannot be imported ({e})"
    version = getattr(module, "__version__", "unknown version")
    return f"{version} @{Path(module.__file__).parent}" if getattr(module, "__file__", None) else version


def _describe_gpu(index: int) -> str:
    major, minor = torch.cuda.get_device_capability(index)
    return f"{torch.cuda.get_device_name(index)} (capability {major}.{minor})"


def main() -> None:
    """Print the report, and check that each GPU takes a tensor."""
    print(collect_env_info())
    for index in range(torch.cuda.device_count()):
        try:
            torch.ones(2).to(f"cuda:{index}")
        except Exception as e:
            print(f"cuda:{index} does not take a tensor, its driver or PyTorch build is broken: {e}")


if __name__ == "__main__":
    main()
