"""Read checkpoint files without ever running code that they carry.

A pickle may name any importable function and have it called while it loads. Both readers here accept the names that
checkpoints are made of and refuse the rest. What a user allowed through ``torch.serialization.add_safe_globals`` is
accepted as well.
"""

from __future__ import annotations

import _codecs
import collections
import datetime
import io
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray

_HOW_TO_ALLOW = (
    "Load it only if you trust whoever made it: allow the name with torch.serialization.add_safe_globals([...]) "
    "before loading, or convert the file to hold tensors, numbers, strings and containers alone."
)


def _numpy_globals() -> dict[str, Any]:
    table: dict[str, Any] = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "_codecs.encode": _codecs.encode,  # how protocol 2 spells bytes
    }
    # NumPy 2 moved the package: files of either version must load under either
    for package in ("numpy.core", "numpy._core"):
        table[f"{package}.multiarray._reconstruct"] = multiarray._reconstruct
        table[f"{package}.multiarray.scalar"] = multiarray.scalar
        table[f"{package}.numeric._frombuffer"] = np.zeros(1).__reduce_ex__(5)[0]
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"]}
    scalars = {np.dtype(code).type for code in np.typecodes["All"]}
    table.update({f"{cls.__module__}.{cls.__name__}": cls for cls in dtypes | scalars})
    return table


_ALLOWED: dict[str, Any] = {
    **_numpy_globals(),
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "collections.deque": collections.deque,
    "collections.Counter": collections.Counter,
    "datetime.datetime": datetime.datetime,
    "datetime.timedelta": datetime.timedelta,
}
_BUILTINS = (
    *(bool, int, float, complex, str, bytes, bytearray),
    *(list, tuple, dict, set, frozenset, slice, range),
)
for _module in ("builtins", "__builtin__"):  # the latter is Python 2's name
    _ALLOWED.update({f"{_module}.{cls.__name__}": cls for cls in _BUILTINS})
_ALLOWED["__builtin__.unicode"] = str
_ALLOWED["__builtin__.long"] = int


def _allowed_by_user() -> dict[str, Any]:
    table = {}
    for entry in torch.serialization.get_safe_globals():
        obj, name = entry if isinstance(entry, tuple) else (entry, f"{entry.__module__}.{entry.__qualname__}")
        table[name] = obj
    return table


_TORCH_GLOBALS: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
}


class _Refused(pickle.UnpicklingError):
    """A file asks for a name that is not allowed."""


def _refusal(filename: str, name: str) -> _Refused:
    return _Refused(f"{filename} was not loaded: it asks for '{name}', which could run code. {_HOW_TO_ALLOW}")


def _restricted_unpickler(filename: str) -> type[pickle.Unpickler]:
    """A pickle reader that resolves names by a table instead of importing them; ``filename`` is for its errors."""
    table = {
        **_ALLOWED,
        **_TORCH_GLOBALS,
        # tensors in a plain pickle: torch's own function would trust the bytes
        "torch.storage._load_from_bytes": lambda data: _load_torch(io.BytesIO(data), filename),
        **_allowed_by_user(),
    }

    class RestrictedUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" not in table:
                raise _refusal(filename, f"{module}.{name}")
            return table[f"{module}.{name}"]

    return RestrictedUnpickler


def _load_torch(source: str | BinaryIO, filename: str) -> Any:
    with torch.serialization.safe_globals([(obj, name) for name, obj in _ALLOWED.items()]):
        try:
            return torch.load(source, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as e:
            named = re.search(r"GLOBAL ([\w.]+)", str(e))
            if named is not None:
                raise _refusal(filename, named[1]) from None
    # torch's reader knows every name but not how to fill some containers, such as a deque: ours does
    unpickler = _restricted_unpickler(filename)
    if not isinstance(source, str):
        source.seek(0)
    module = SimpleNamespace(
        __name__="restricted_pickle",
        Unpickler=unpickler,
        load=lambda file, **kwargs: unpickler(file, **kwargs).load(),
    )
    return torch.load(source, map_location="cpu", pickle_module=module, weights_only=False)


@contextmanager
def _naming(filename: str) -> Iterator[None]:
    """Put the file's name into the many errors that a damaged file can give."""
    try:
        yield
    except _Refused:
        raise
    except Exception as e:
        if isinstance(e, OSError) and e.filename:  # missing or unreadable; a cut file gives an OSError without name
            raise
        raise RuntimeError(f"{filename} is damaged or is no checkpoint: {type(e).__name__}: {e}") from e


def load_pickle(file: BinaryIO, filename: str | Path) -> Any:
    """Read a pickle of arrays, tensors, builtin scalars and containers; Python 2 strings are taken as latin1.

    Raises:
        pickle.UnpicklingError: the pickle names anything else; the message has the file and that name.
        RuntimeError: the file is damaged, or no pickle.
    """
    with _naming(str(filename)):
        # latin1 is what lets the arrays of Python 2 files through
        return _restricted_unpickler(str(filename))(file, encoding="latin1").load()


def load_torch(filename: str | Path) -> Any:
    """Read a ``torch.save`` file on to the CPU: tensors, NumPy arrays and scalars, builtin types and containers.

    Raises:
        pickle.UnpicklingError: the file holds objects of other types; the message has the file and the type.
        RuntimeError: the file is damaged, or no torch checkpoint.
    """
    with _naming(str(filename)):
        return _load_torch(str(filename), str(filename))
