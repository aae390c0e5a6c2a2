"""Helpers for tests of models and configs."""

import os
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detectron2 import model_zoo
from detectron2._left_out import left_out_function
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, ROIMasks
from detectron2.utils.file_io import PathManager
from detectron2.utils.torch_version_utils import min_torch_version

convert_scripted_instances = left_out_function("convert_scripted_instances", "scripting")
reload_script_model = left_out_function("reload_script_model", "scripting")
has_dynamic_axes = left_out_function("has_dynamic_axes", "export")
register_custom_op_onnx_export = left_out_function("register_custom_op_onnx_export", "export")
unregister_custom_op_onnx_export = left_out_function("unregister_custom_op_onnx_export", "export")
skipIfUnsupportedMinOpsetVersion = left_out_function("skipIfUnsupportedMinOpsetVersion", "export")
_pytorch1111_symbolic_opset9_to = left_out_function("_pytorch1111_symbolic_opset9_to", "export")
_pytorch1111_symbolic_opset9_repeat_interleave = left_out_function(
    "_pytorch1111_symbolic_opset9_repeat_interleave", "export"
)

skipIfOnCPUCI = unittest.skipIf(
    bool(os.environ.get("CI")) and not torch.cuda.is_available(), "Too slow for a CI machine without a GPU."
)


def skipIfUnsupportedMinTorchVersion(min_version: str) -> Callable:  # noqa: N802
    """Decorator that skips a test where torch is older than `min_version`."""
    return unittest.skipIf(
        not min_torch_version(min_version), f"Needs torch {min_version}, this is {torch.__version__}."
    )


def get_model_no_weights(config_path: str) -> torch.nn.Module:
    """Build a model of the zoo as :func:`detectron2.model_zoo.get` does, with random weights and no download."""
    cfg = model_zoo.get_config(config_path)
    if not isinstance(cfg, CfgNode):
        return instantiate(cfg.model)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def random_boxes(num_boxes: int, max_coord: float = 100, device: str | torch.device = "cpu") -> torch.Tensor:
    """Draw boxes (N, 4), xyxy, of at least one pixel, with coordinates up to `max_coord`.

    One call of ``torch.rand``: the same seed gives the same boxes.
    """
    corner, size = (torch.rand(num_boxes, 4, device=device) * (max_coord * 0.5)).clamp_(min=1.0).split(2, dim=1)
    return torch.cat([corner, corner + size], dim=1)


def get_sample_coco_image(tensor: bool = True) -> torch.Tensor | np.ndarray:
    """Read the first image of the dataset "coco_2017_val_100", BGR, uint8.

    Args:
        tensor: give a tensor (3, H, W), else an array (H, W, 3).

    Raises:
        FileNotFoundError: if the dataset is not there; nothing is downloaded.
    """
    try:
        path = DatasetCatalog.get("coco_2017_val_100")[0]["file_name"]
    except OSError as e:
        path = e.filename
    if not (path and PathManager.isfile(str(path))):
        raise FileNotFoundError(
            f"{path} does not exist: get_sample_coco_image() reads the dataset coco_2017_val_100, which it expects "
            f"under $DETECTRON2_DATASETS (now {os.environ.get('DETECTRON2_DATASETS', 'datasets')!r})."
        )
    image = read_image(path, format="BGR")
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) if tensor else image


def assert_instances_allclose(
    input: Instances, other: Instances, *, rtol: float = 1e-5, msg: str = "", size_as_tensor: bool = False
) -> None:
    """Assert that two Instances have the same image size and fields, with (nearly) the same values.

    Boxes and ROIMasks may differ by ``100 * rtol``, other floating-point tensors by `rtol` times their largest
    magnitude, each plus torch's default relative tolerance; other tensors must be equal.

    Args:
        input: the one.
        other: the other.
        rtol: tolerance.
        msg: put in front of the message of a failure.
        size_as_tensor: compare the image sizes as tensors, as tracing gives them.

    Raises:
        AssertionError: if they differ.
        ValueError: if a field is none of the above.
    """
    msg = (msg or "Two Instances are different!").rstrip()
    sizes = input.image_size, other.image_size
    if size_as_tensor:
        same_size = torch.equal(*map(torch.tensor, sizes))
    else:
        same_size = sizes[0] == sizes[1]
    assert same_size, f"{msg} image_size is {sizes[0]} vs. {sizes[1]}!"

    names = sorted(input.get_fields())
    other_names = sorted(other.get_fields())
    assert names == other_names, f"{msg} Fields are {names} vs. {other_names}!"
    for name in names:
        mine, theirs = input.get(name), other.get(name)
        if isinstance(mine, (Boxes, ROIMasks)):
            equal = torch.allclose(mine.tensor, theirs.tensor, atol=100 * rtol)
        elif not isinstance(mine, torch.Tensor):
            raise ValueError(f"Cannot compare field {name!r} of type {type(mine).__name__}.")
        elif mine.is_floating_point():
            magnitude = mine.abs().max().item() if mine.numel() else 0.0
            equal = mine.shape == theirs.shape and torch.allclose(mine, theirs, atol=magnitude * rtol)
        else:
            equal = torch.equal(mine, theirs)
        assert equal, f"{msg} Field {name!r} differs!"


def reload_lazy_config(cfg: Any) -> Any:
    """What :meth:`LazyConfig.load` gives after :meth:`LazyConfig.save`."""
    with tempfile.TemporaryDirectory(prefix="detectron2") as folder:
        path = str(Path(folder) / "config.yaml")
        LazyConfig.save(cfg, path)
        return LazyConfig.load(path)
