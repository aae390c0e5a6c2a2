"""Registries of named objects, and the two-way map between objects and their dotted import paths."""

import builtins
import importlib
import sys
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Return the object that a dotted path names, e.g. ``"torch.optim.SGD"`` or the builtin ``"len"``.

    An attribute wins over a submodule of the same name.

    Raises:
        ImportError: if nothing is there, or if importing a module on the way failed; the message says which.
    """
    parts = name.split(".")
    if not all(parts):
        raise ImportError(f"Cannot locate {name!r}: not a dotted path such as 'package.module.name'.")
    imported = _import_longest_prefix(parts)
    if imported == 0:
        obj, walked = builtins, 0
        if not hasattr(builtins, parts[0]):
            raise ImportError(f"Cannot locate {name!r}: there is no module {parts[0]!r}.")
    else:
        obj, walked = sys.modules[parts[0]], 1
    for i in range(walked, len(parts)):
        # `torch.optim` deletes its attribute `sgd`, yet the module `torch.optim.sgd` exists.
        submodule = sys.modules.get(".".join(parts[: i + 1])) if i < imported else None
        obj = getattr(obj, parts[i], submodule)
        if obj is None:
            owner = ".".join(parts[:i])
            raise ImportError(f"Cannot locate {name!r}: {owner!r} has no attribute or submodule {parts[i]!r}.")
    return obj


def _import_longest_prefix(parts: list[str]) -> int:
    """Import as much of a dotted path as consists of modules; return the number of such parts."""
    for i in range(len(parts)):
        module_name = ".".join(parts[: i + 1])
        if module_name in sys.modules:
            continue
        try:
            importlib.import_module(module_name)
        except ModuleNotFoundError as e:
            # Either this name is no module, or its parent is not a package: attributes take over from here.
            if e.name is None or module_name == e.name or module_name.startswith(e.name + "."):
                return i
            raise ImportError(f"Cannot locate {'.'.join(parts)!r}: importing {module_name!r} failed: {e}") from e
        except Exception as e:
            raise ImportError(f"Cannot locate {'.'.join(parts)!r}: importing {module_name!r} failed: {e}") from e
    return len(parts)


def _convert_target_to_string(t: Any) -> str:
    """Give the dotted path of an object with ``__module__`` and ``__qualname__``, the inverse of :func:`locate`.

    The shortest path wins that leads to the same object, so that a private module in between does not
    show up (``torch.nn.Conv2d``, not ``torch.nn.modules.conv.Conv2d``).
    """
    owner = t.__module__.split(".")
    for length in range(1, len(owner)):
        path = ".".join([*owner[:length], t.__qualname__])
        try:
            found = locate(path)
        except ImportError:
            continue
        if found is t:
            return path
    return f"{t.__module__}.{t.__qualname__}"
