"""Settings of the whole suite: one thread a process, and which detectron2 is under test."""

import importlib

import pytest
import torch

# pytest-xdist already keeps every core busy.
torch.set_num_threads(1)

BUNDLED = "+instseg" in importlib.import_module("detectron2").__version__


def pytest_report_header() -> str:
    import detectron2

    kind = "bundled runtime" if BUNDLED else "upstream"
    return f"detectron2 {detectron2.__version__} ({kind}), torch {torch.__version__}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not BUNDLED:
        skip = pytest.mark.skip(reason="promised by the bundled runtime alone")
        for item in items:
            if item.get_closest_marker("bundled_only"):
                item.add_marker(skip)
