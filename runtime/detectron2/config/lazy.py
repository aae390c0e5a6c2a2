"""Lazy configs: Python (or yaml) files of omegaconf objects that describe calls instead of making them."""

import builtins
import importlib.machinery
import importlib.util
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import is_dataclass
from types import CodeType, ModuleType
from typing import Any

import cloudpickle
import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode, read_write

from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string, locate

from ._overrides import apply_override

__all__ = ["LazyCall", "LazyConfig"]


class LazyCall:
    """Describe a call: ``LazyCall(nn.Conv2d)(in_channels=3, out_channels=8, kernel_size=1)`` gives a DictConfig of the
    arguments plus ``_target_``, which can be edited and then built by :func:`detectron2.config.instantiate`.

    Arguments go by keyword only. The target is a callable, its dotted path, or a mapping that describes a callable.
    """

    def __init__(self, target: Callable | str | Mapping):
        if not (callable(target) or isinstance(target, (str, Mapping))):
            raise TypeError(f"LazyCall takes a callable, its dotted path or a description of one, not {target!r}.")
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        # omegaconf turns a dataclass type into a structured config, so it goes by its name.
        kwargs["_target_"] = _convert_target_to_string(self._target) if is_dataclass(self._target) else self._target
        return DictConfig(content=kwargs, flags={"allow_objects": True})


class LazyConfig:
    """Load, change, save and print configs."""

    @staticmethod
    def load(filename: str | os.PathLike, keys: str | Iterable[str] | None = None) -> Any:
        """Run a ``.py`` config, or read a ``.yaml`` one. Every load gives new objects.

        A config file may import names of other config files, relatively and by file path, no package needed:
        ``from ..common.optim import SGD as optimizer``. Dicts become DictConfig.

        Args:
            filename: path, absolute or from the working directory.
            keys: names to return: one for a single object, several for a tuple. None returns all configs and dicts
                of the file whose name does not start with an underscore, in a DictConfig.

        Raises:
            ValueError: for another file type.
            SyntaxError, ImportError: for a broken file or import; the message names the file and line.
            KeyError: if a key is not in the file.
        """
        filename = os.fspath(filename).replace("/./", "/")
        if filename.endswith(".py"):
            content = vars(_run_config_file(filename, importers=()))
        elif filename.endswith((".yaml", ".yml")):
            with PathManager.open(filename, "r") as f:
                content = OmegaConf.create(yaml.unsafe_load(f), flags={"allow_objects": True})
        else:
            raise ValueError(f"Config file {filename} has to be a .py, .yaml or .yml file.")

        if keys is not None:
            wanted = [keys] if isinstance(keys, str) else list(keys)
            for key in wanted:
                if key not in content:
                    raise KeyError(f"Config file {filename} does not define {key!r}.")
            found = tuple(_dict_to_config(content[key]) for key in wanted)
            return found[0] if isinstance(keys, str) else found
        if OmegaConf.is_config(content):
            return content
        return DictConfig(
            {
                name: _dict_to_config(value)
                for name, value in content.items()
                if not name.startswith("_") and isinstance(value, (DictConfig, ListConfig, dict))
            },
            flags={"allow_objects": True},
        )

    @staticmethod
    def load_rel(filename: str, keys: str | Iterable[str] | None = None) -> Any:
        """Like :meth:`load`, with a path relative to the source file that calls this function."""
        caller = sys._getframe(1).f_code.co_filename
        assert caller != "<string>", "load_rel() must be called from a file."
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def save(cfg: Any, filename: str) -> None:
        """Write a config as yaml, with callables by their dotted path and interpolations unresolved.

        If it holds an object that yaml cannot give back (a lambda), log a warning and pickle the config
        to ``filename + ".pkl"`` too.
        """
        logger = logging.getLogger(__name__)
        try:
            cfg = deepcopy(cfg)
        except Exception:
            logger.debug("The config cannot be copied: its callables are saved as they are.")
        else:
            _name_targets(cfg)

        try:
            # INSTANTIATE keeps the type of dataclass objects.
            plain = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
            text = yaml.dump(plain, default_flow_style=None, allow_unicode=True, width=9999)
            with PathManager.open(filename, "w") as f:
                f.write(text)
            yaml.unsafe_load(text)
            return
        except Exception as e:
            logger.warning(f"{filename} cannot be loaded again as yaml ({type(e).__name__}: {e}).")
        try:
            with PathManager.open(filename + ".pkl", "wb") as f:
                cloudpickle.dump(cfg, f)
            logger.warning(f"The config is saved by cloudpickle in {filename}.pkl.")
        except Exception as e:
            logger.warning(f"It cannot be pickled to {filename}.pkl either ({type(e).__name__}: {e}).")

    @staticmethod
    def apply_overrides(cfg: Any, overrides: Iterable[str]) -> Any:
        """Change a config in place, as the command line asks, and return it.

        Each override is ``key=value``. The key is dotted, with list indices as ``a.0`` or ``a[0]``; a key that does
        not exist yet is added. The value is a number, ``true``, ``false``, ``null``, a list ``[1, 2]``, a dict
        ``{x: 1}`` (merged into the present one), or a string, in quotes if it would read as one of the others.
        ``~key`` deletes.

        Raises:
            ValueError: if an override cannot be parsed.
            KeyError: if a key leads through a value that is no config, or a deleted key does not exist.
        """
        for override in overrides:
            apply_override(cfg, override)
        return cfg

    @staticmethod
    def to_py(cfg: Any, prefix: str = "cfg.") -> str:
        """Show a config as Python-like code, one line (or wrapped call) per key, with interpolations resolved.

        It is meant to be read; it does not always run.

        Args:
            cfg: the config.
            prefix: what each key starts with.
        """
        plain = OmegaConf.to_container(cfg, resolve=True)
        if "_target_" in plain:
            return prefix + _render(plain, 0, len(prefix)) + "\n"
        return "".join(f"{key} = {_render(value, 0, len(key) + 3)}\n" for key, value in _flatten(plain, prefix))


# -- Loading ----------------------------------------------------------------------------------------------------------

_PACKAGE_NAME = "detectron2._cfg_loader"
_load_count = itertools.count()


def _dict_to_config(obj: Any) -> Any:
    return DictConfig(obj, flags={"allow_objects": True}) if isinstance(obj, dict) else obj


def _compile_config(filename: str) -> CodeType:
    with PathManager.open(filename, "r") as f:
        source = f.read()
    try:
        return compile(source, filename, "exec")
    except SyntaxError as e:
        e.msg = f"{e.msg} in config file {filename}"
        raise


def _run_config_file(filename: str, importers: tuple[str, ...]) -> ModuleType:
    """Run a config file in a module of its own that ``sys.modules`` does not know.

    The module sees builtins of its own whose ``__import__`` understands relative imports of config files. Python's
    own importer is never touched, so that a config that fails leaves nothing behind.

    Args:
        filename: the file to run.
        importers: the config files whose import led here, outermost first.
    """
    if filename in importers:
        raise ImportError("Config files import each other in a circle: " + " -> ".join((*importers, filename)))
    code = _compile_config(filename)
    name = f"{_PACKAGE_NAME}{next(_load_count)}.{os.path.basename(filename)}"
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, None, origin=filename))
    module.__file__ = filename
    chain = (*importers, filename)

    def import_in_config(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist, level)
        where = f"{filename}, line {sys._getframe(1).f_lineno}"
        imported = _run_config_file(_find_config_file(filename, name, level, where), chain)
        content = vars(imported)
        for key in content if "*" in fromlist else fromlist:
            if key not in content:
                raise ImportError(f"{where}: cannot import {key!r}, {imported.__file__} does not define it.")
            content[key] = content[key] if key.startswith("__") else _dict_to_config(content[key])
        return imported

    module.__builtins__ = {**vars(builtins), "__import__": import_in_config}
    exec(code, vars(module))
    return module


def _find_config_file(importer: str, name: str, level: int, where: str) -> str:
    """The file that ``from <dots><name> import ...`` in the config file `importer` means."""
    if not name:
        raise ImportError(
            f"{where}: relative import of a directory is not allowed within config files; "
            "import names from a config file in it."
        )
    folder = os.path.dirname(importer)
    for _ in range(level - 1):
        # Going up from "" or ".." must not stay in place.
        if os.path.basename(folder) in ("", ".", ".."):
            folder = os.path.join(folder, "..")
        else:
            folder = os.path.dirname(folder)
    path = os.path.join(folder, *name.split("."))
    if PathManager.isfile(path + ".py"):
        return path + ".py"
    if PathManager.isdir(path):
        raise ImportError(
            f"{where}: cannot import from the directory {path}; relative import within config files takes config files."
        )
    raise ImportError(f"{where}: cannot import from {name!r}, {path}.py does not exist.")


# -- Saving -----------------------------------------------------------------------------------------------------------


def _nodes(cfg: Any) -> Iterator[DictConfig]:
    """All DictConfigs in a config, parents first; what an interpolation refers to is not followed."""
    if isinstance(cfg, DictConfig):
        yield cfg
    elif not isinstance(cfg, ListConfig):
        return
    if cfg._is_none() or cfg._is_missing() or cfg._is_interpolation():
        return
    keys = cfg.keys() if isinstance(cfg, DictConfig) else range(len(cfg))
    for child in [cfg._get_node(key) for key in keys]:
        yield from _nodes(child)


def _name_targets(cfg: Any) -> None:
    """Replace in place the callable targets that can be found again under their dotted path by that path."""
    for node in _nodes(cfg):
        # The raw value: a target given by interpolation keeps its link.
        target = node._get_node("_target_")._value() if "_target_" in node.keys() else None
        if not callable(target):
            continue
        try:
            path = _convert_target_to_string(target)
            if locate(path) is target:
                with read_write(node):
                    node._target_ = path
        except (AttributeError, ImportError):
            # A partial, a lambda or a function of a config file has no path: yaml or pickle shall try.
            continue


# -- Printing ---------------------------------------------------------------------------------------------------------

_LINE_WIDTH = 88


def _flatten(cfg: Mapping, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in sorted(cfg.items(), key=lambda item: str(item[0])):
        if isinstance(value, Mapping) and "_target_" not in value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _render(obj: Any, indent: int, column: int) -> str:
    """Code for an object, broken into one line per item where it does not fit.

    Args:
        obj: value, list or mapping.
        indent: spaces in front of the lines that close what is opened here.
        column: where on its line the text starts.
    """
    if isinstance(obj, Mapping) and "_target_" in obj:
        target = obj["_target_"]
        path = target if isinstance(target, str) else _target_path(target)
        items = [(f"{k}=", v) for k, v in sorted(obj.items()) if k != "_target_"]
        opening, closing = f"{path}(", ")"
    elif isinstance(obj, Mapping):
        items = [(_literal(k) + ": ", v) for k, v in sorted(obj.items(), key=lambda item: str(item[0]))]
        opening, closing = "{", "}"
    elif isinstance(obj, (list, tuple)):
        items = [("", v) for v in obj]
        opening, closing = "[", "]"
    else:
        return _literal(obj)

    inner = indent + 4
    pieces = [label + _render(v, inner, inner + len(label)) for label, v in items]
    one_line = f"{opening}{', '.join(pieces)}{closing}"
    if not pieces or ("\n" not in one_line and column + len(one_line) <= _LINE_WIDTH):
        return one_line
    lines = "".join(f"{' ' * inner}{piece},\n" for piece in pieces)
    return f"{opening}\n{lines}{' ' * indent}{closing}"


def _target_path(target: Any) -> str:
    try:
        return _convert_target_to_string(target)
    except AttributeError:
        return repr(target)


def _literal(value: Any) -> str:
    text = repr(value)
    if isinstance(value, str) and text[0] == "'" and '"' not in value:
        return '"' + re.sub(r"\\'", "'", text[1:-1]) + '"'
    return text
