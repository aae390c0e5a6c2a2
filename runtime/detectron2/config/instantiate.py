"""Turns descriptions of calls (dicts with ``_target_``) into the objects that the calls return."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from detectron2.utils.registry import _convert_target_to_string, locate

__all__ = ["dump_dataclass", "instantiate"]


def dump_dataclass(obj: Any) -> dict[str, Any]:
    """Describe a dataclass object, and those in its fields and lists, as dicts that `instantiate` understands."""
    is_object = dataclasses.is_dataclass(obj) and not isinstance(obj, type)
    assert is_object, f"dump_dataclass() takes a dataclass object, not {obj!r}."

    def describe(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [describe(v) if dataclasses.is_dataclass(v) else v for v in value]
        return dump_dataclass(value) if dataclasses.is_dataclass(value) else value

    described = {"_target_": _convert_target_to_string(type(obj))}
    described.update((f.name, describe(getattr(obj, f.name))) for f in dataclasses.fields(obj))
    return described


def instantiate(cfg: Any) -> Any:
    """Build what a config describes: a mapping with ``_target_`` (a callable or its dotted path) becomes the result of
    that call, with the other keys as arguments, innermost first; lists are gone through; anything else is
    returned as it is. Arguments that are a DictConfig or ListConfig arrive in the call as such.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        # A plain list stays one: many classes take list[object].
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(cfg._metadata.object_type):
        return OmegaConf.to_object(cfg)
    if not (isinstance(cfg, Mapping) and "_target_" in cfg):
        return cfg

    arguments = {key: instantiate(value) for key, value in cfg.items()}
    target = arguments.pop("_target_")
    # A target that was itself a description is instantiated by now; what it gave may again be one.
    target = instantiate(target)
    if isinstance(target, str):
        name, target = target, locate(target)
    else:
        name = f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', target)}"
    assert callable(target), f"_target_ {name} is not callable: {target!r}."
    try:
        return target(**arguments)
    except TypeError:
        logging.getLogger(__name__).error(f"Error when instantiating {name} with arguments {sorted(arguments)}.")
        raise
