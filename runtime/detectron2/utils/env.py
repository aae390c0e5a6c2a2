"""Process-wide set-up: random seeds, OpenCV's habits, and a user's own set-up module."""

import importlib
import importlib.util
import logging
import os
import random
import sys
import time
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
import torch

__all__ = ["seed_all_rng"]

TORCH_VERSION: tuple[int, ...] = tuple(int(digits) for digits in torch.__version__.split(".")[:2])

DOC_BUILDING = os.getenv("_DOC_BUILDING", False)


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python, NumPy and torch (CPU and every GPU); without a seed, draw one that differs per process."""
    if seed is None:
        # At most 0 .. 2**32 - 1, NumPy's range, whatever the process id is.
        seed = (os.getpid() + time.time_ns() // 1000 + int.from_bytes(os.urandom(3), "big")) % 2**32
        logging.getLogger(__name__).info(f"Using a generated random seed {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)


def _import_file(module_name: str, file_path: str, make_importable: bool = False) -> ModuleType:
    """Run a source file as a module of the given name; `make_importable` puts it into ``sys.modules``."""
    found = importlib.util.spec_from_file_location(module_name, file_path)
    module = importlib.util.module_from_spec(found)
    if make_importable:
        # Before it runs: dataclasses and pickle look their module up.
        sys.modules[module_name] = module
    found.loader.exec_module(module)
    return module


def _configure_opencv() -> None:
    if int(os.environ.get("DETECTRON2_DISABLE_CV2", 0)):
        # Makes every later `import cv2` fail, as the user asked.
        sys.modules["cv2"] = None
        return
    # OpenCL shares the GPU badly with CUDA.
    os.environ["OPENCV_OPENCL_RUNTIME"] = "disabled"
    try:
        import cv2
    except ModuleNotFoundError:
        return
    cv2.ocl.setUseOpenCL(False)


_ENV_SETUP_DONE = False


def setup_environment() -> None:
    """Configure third-party libraries, once per process.

    If ``$DETECTRON2_ENV_MODULE`` names a module or a ``.py`` file, call its function ``setup_environment()``.
    """
    global _ENV_SETUP_DONE
    if _ENV_SETUP_DONE:
        return
    _ENV_SETUP_DONE = True
    _configure_opencv()
    if custom_module := os.environ.get("DETECTRON2_ENV_MODULE"):
        setup_custom_environment(custom_module)


def setup_custom_environment(custom_module: str) -> None:
    """Import a module by name or by its ``.py`` path and call its ``setup_environment()``."""
    if custom_module.endswith(".py"):
        module = _import_file("detectron2.utils.env.custom_module", custom_module)
    else:
        module = importlib.import_module(custom_module)
    setup = getattr(module, "setup_environment", None)
    assert callable(setup), f"{custom_module} (from $DETECTRON2_ENV_MODULE) defines no function setup_environment()."
    setup()


def fixup_module_metadata(module_name: str, namespace: dict[str, Any], keys: Iterable[str] | None = None) -> None:
    """While documentation is built, let exported objects name the package as their module; else do nothing."""
    if not DOC_BUILDING:
        return
    for name in namespace if keys is None else keys:
        obj = namespace[name]
        owner = getattr(obj, "__module__", None) or ""
        if not name.startswith("_") and owner.startswith((module_name, "fvcore.")):
            obj.__module__ = module_name
