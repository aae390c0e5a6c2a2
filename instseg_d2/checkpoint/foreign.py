"""Tensors out of checkpoints that other code bases have saved, read without running anything that a file carries."""

import codecs
import collections
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checkpointer import CheckpointError

# Where checkpoints keep their tensors: detectron2 and its descendants, mmcv.
_ENTRIES = ("model", "state_dict")


def _harmless() -> dict[str, Any]:
    """Objects that a checkpoint of numbers may name, beyond those that torch itself allows."""
    table = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "_codecs.encode": codecs.encode,  # bytes in the older protocols
        "collections.OrderedDict": collections.OrderedDict,
    }
    kinds = {type(np.dtype(code)) for code in np.typecodes["All"]}
    table.update({f"{kind.__module__}.{kind.__name__}": kind for kind in kinds})
    array = np.zeros(1, dtype=np.float32)
    for rebuild in (array.__reduce__()[0], array.__reduce_ex__(5)[0], array[0].__reduce__()[0]):
        # NumPy 2 renamed its package: files of either version load under either.
        tail = f"{rebuild.__module__.rpartition('.')[2]}.{rebuild.__name__}"
        table.update({f"numpy.core.{tail}": rebuild, f"numpy._core.{tail}": rebuild})
    return table


_HARMLESS = _harmless()


class _ArrayUnpickler(pickle.Unpickler):
    """Looks names up in a table in place of importing them."""

    def __init__(self, file: Any, path: Path):
        super().__init__(file, encoding="latin1")  # what lets arrays of Python 2 through
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        key = f"{module}.{name}"
        if key not in _HARMLESS:
            raise _refusal(self.path, key)
        return _HARMLESS[key]


def _refusal(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path} was not read: it holds more than tensors, and asks for '{name}', which could run code. If you trust "
        "where it comes from, save its tensors alone in the environment that it was made in, and convert that file: "
        f"content = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
        "torch.save({'model': content['model']}, 'tensors.pth')  # or content['state_dict']"
    )


def _load(path: Path) -> Any:
    if path.suffix == ".pkl":
        with path.open("rb") as file:
            return _ArrayUnpickler(file, path).load()
    with torch.serialization.safe_globals([(value, name) for name, value in _HARMLESS.items()]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read(path: Path) -> Any:
    """The content of a file, whatever it is; one error for all the ways in which a file can be damaged."""
    try:
        return _load(path)
    except CheckpointError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "filename", None):
            raise
        if isinstance(error, pickle.UnpicklingError) and (named := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise _refusal(path, named[1]) from None
        cause = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path} is damaged or no checkpoint: {type(error).__name__}: {cause}") from error


def _as_tensor(path: Path, name: Any, value: Any) -> torch.Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "bifu":
        value = torch.from_numpy(value.copy())  # files give arrays that cannot be written to
    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        raise CheckpointError(
            f"{path}: '{name}' is of type {type(value).__name__}, not a tensor. A file of weights is a dict of tensors "
            f"by name, or has one as its entry {' or '.join(map(repr, _ENTRIES))}"
        )
    return value.detach()


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint.

    Args:
        path: a file of `torch.save`, of any version of torch, or (`.pkl`) a pickle of NumPy arrays. The tensors are
            its entry `model` or `state_dict`, or all that it holds.

    Returns:
        tensors on the CPU by name, without the prefix `module.` that a model wrapped for several GPUs has.

    Raises:
        OSError: it cannot be opened.
        CheckpointError: it is damaged, names anything that could run code, or holds something else than tensors.
    """
    content = _read(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; a checkpoint is a dict of tensors by name")
    entry = next((key for key in _ENTRIES if isinstance(content.get(key), Mapping)), None)
    state = content if entry is None else content[entry]
    tensors = {name: _as_tensor(path, name, value) for name, value in state.items()}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors
