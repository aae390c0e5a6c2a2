"""yaml configs: the node type, the default and global configs, and objects that can be built from a config."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode
from omegaconf import DictConfig

from detectron2.utils.file_io import PathManager

__all__ = ["CfgNode", "get_cfg", "global_cfg", "set_global_cfg", "configurable"]


class CfgNode(_CfgNode):
    """fvcore's CfgNode, which reads files through our PathManager, loads yaml tags by default (do not load
    a file that you do not trust), and converts configs of an older VERSION while it merges them.
    """

    @classmethod
    def _open_cfg(cls, filename: str):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a yaml file, with the files that its ``_BASE_`` names, into this config.

        Args:
            cfg_filename: the file.
            allow_unsafe: allow yaml tags that construct Python objects.
        """
        from .compat import downgrade_config, guess_version, upgrade_config
        from .defaults import _C

        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        assert self.VERSION == _C.VERSION, (
            f"Cannot merge {cfg_filename} into a config of version {self.VERSION}: upgrade it to {_C.VERSION} first."
        )
        new = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        version = new.get("VERSION", None)
        if version is None:
            version = guess_version(new, cfg_filename)
        assert version <= self.VERSION, (
            f"Config file '{cfg_filename}' has version {version}, newer than this library's {self.VERSION}."
        )
        if version == self.VERSION:
            self.merge_from_other_cfg(new)
            return

        logging.getLogger(__name__).warning(
            f"Config file '{cfg_filename}' has version {version}; its keys are converted to version {self.VERSION}."
        )
        # The old keys exist only in a full config of that version, so take this one back, merge, and return.
        old_full = downgrade_config(self, to_version=version)
        old_full.merge_from_other_cfg(new)
        upgraded = upgrade_config(old_full)
        self.clear()
        self.update(upgraded)

    def dump(self, *args, **kwargs) -> str:
        """The config as yaml text; arguments go to ``yaml.safe_dump``."""
        return super().dump(*args, **kwargs)


global_cfg = CfgNode()


def get_cfg() -> CfgNode:
    """A fresh copy of the default config."""
    from .defaults import _C

    return _C.clone()


def set_global_cfg(cfg: CfgNode) -> None:
    """Let ``detectron2.config.global_cfg`` hold the keys of `cfg`; for quick experiments only."""
    global_cfg.clear()
    global_cfg.update(cfg)


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a class or a function be called with a config in place of its arguments.

    On ``__init__``, the class needs a classmethod ``from_config(cls, cfg, ...)`` that returns the arguments as a
    dict; on a function, ``@configurable(from_config=...)`` takes that function. A call whose first argument (or
    keyword ``cfg``) is a CfgNode or DictConfig goes through ``from_config``; further arguments go to it if it
    takes them, else override what it returns. Any other call is left as it is::

        class Head(nn.Module):
            @configurable
            def __init__(self, width, depth=2): ...

            @classmethod
            def from_config(cls, cfg):
                return {"width": cfg.MODEL.WIDTH}

        Head(width=8)
        Head(cfg)
        Head(cfg, depth=3)
    """
    if init_func is None:
        if from_config is None:
            return configurable
        assert inspect.isfunction(from_config), "configurable(from_config=...) needs a function."
        return functools.partial(_configurable_function, from_config=from_config)

    used_alone_on_init = from_config is None and inspect.isfunction(init_func) and init_func.__name__ == "__init__"
    assert used_alone_on_init, (
        "@configurable without arguments belongs on __init__; on a function, use @configurable(from_config=...)."
    )

    @functools.wraps(init_func)
    def init_from_config_or_arguments(self, *args, **kwargs):
        translate = getattr(type(self), "from_config", None)
        if translate is None:
            raise AttributeError(f"{type(self).__name__} uses @configurable but has no classmethod 'from_config'.")
        if not inspect.ismethod(translate):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod.")
        if _is_called_with_config(args, kwargs):
            init_func(self, **_translate_arguments(translate, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return init_from_config_or_arguments


def _configurable_function(func: Callable, *, from_config: Callable) -> Callable:
    @functools.wraps(func)
    def call_with_config_or_arguments(*args, **kwargs):
        if _is_called_with_config(args, kwargs):
            return func(**_translate_arguments(from_config, args, kwargs))
        return func(*args, **kwargs)

    call_with_config_or_arguments.from_config = from_config
    return call_with_config_or_arguments


def _is_called_with_config(args: tuple, kwargs: dict[str, Any]) -> bool:
    configs = (_CfgNode, DictConfig)
    return (len(args) > 0 and isinstance(args[0], configs)) or isinstance(kwargs.get("cfg"), configs)


def _translate_arguments(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that `from_config` makes of a call, with those it does not take put on top."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as its first argument.")
    takes_all = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    taken = {k: v for k, v in kwargs.items() if takes_all or k in parameters}
    translated = from_config(*args, **taken)
    translated.update((k, v) for k, v in kwargs.items() if k not in taken)
    return translated
