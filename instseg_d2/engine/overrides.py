"""Command-line overrides that must name existing keys: a mistyped key is refused with the nearest known ones."""

import difflib
from collections.abc import Iterator, Sequence

from detectron2.config import LazyConfig
from omegaconf import DictConfig, ListConfig, OmegaConf


class SettingError(ValueError):
    """A key of the config has a value that cannot be used; the message names the key."""


class UnknownKeyError(KeyError):
    """An override names a key that the config does not have."""

    def __str__(self) -> str:
        return self.args[0]


def _children(node: DictConfig | ListConfig) -> Iterator[tuple[str, object]]:
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        # The raw node: reading the value would resolve interpolations, which only the whole config can do.
        yield str(key), node._get_node(key)


def config_keys(cfg: DictConfig | ListConfig, prefix: str = "") -> Iterator[str]:
    """All keys of a config as dotted paths, inner nodes and leaves alike; list items by their index."""
    for key, child in _children(cfg):
        path = f"{prefix}{key}"
        yield path
        if isinstance(child, DictConfig | ListConfig) and not child._is_none() and not child._is_interpolation():
            yield from config_keys(child, f"{path}.")


def _normalise(key: str) -> str:
    return key.replace("[", ".").replace("]", "")


def _value(cfg: DictConfig, key: str) -> object:
    return OmegaConf.select(cfg, _normalise(key), throw_on_resolution_failure=False)


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Apply `key=value` overrides (`key` dotted, `value` in YAML) in place and return the config.

    Args:
        cfg: a loaded recipe.
        overrides: `a.b=value` changes an existing key, `+a.b=value` adds a new one, `~a.b` deletes one.

    Raises:
        UnknownKeyError: a key does not exist in the config (the message lists the nearest ones), or `+` names one
            that does.
        SettingError: an override is not of the form `key=value`, its value cannot be parsed, or is text where the
            config has a number or a truth value.
    """
    known = list(config_keys(cfg))
    plain, doomed = [], []
    for override in overrides:
        if override.startswith("~"):
            key, new = override[1:].partition("=")[0], False
        elif "=" in override:
            key, new = override.partition("=")[0].removeprefix("+"), override.startswith("+")
        else:
            raise SettingError(f"override '{override}' is not of the form key=value (or ~key, which deletes a key)")
        exists = _normalise(key) in known
        if new and exists:
            raise UnknownKeyError(f"override '{override}': '{key}' exists already; write it without the '+'")
        if not new and not exists:
            near = difflib.get_close_matches(_normalise(key), known, n=5, cutoff=0.5)
            tail = _normalise(key).rpartition(".")[2]
            near += [path for path in known if path.rpartition(".")[2] == tail and path not in near]
            hint = f"nearest: {', '.join(near[:5])}" if near else "`--print-config` shows all keys"
            raise UnknownKeyError(
                f"override '{override}': the config has no key '{key}' ({hint}). "
                f"To add a new argument on purpose, write '+{override}'."
            )
        if override.startswith("~"):
            doomed.append(_normalise(key))
        else:
            plain.append(override.removeprefix("+"))
    for override in plain:
        key, _, text = override.partition("=")
        before = _value(cfg, key)
        try:
            LazyConfig.apply_overrides(cfg, [override])
        except Exception as error:  # each implementation has its own parser and errors
            raise SettingError(f"override '{override}': {error}") from error
        if isinstance(before, int | float) and isinstance(_value(cfg, key), str) and "${" not in text:
            kind = "true or false" if isinstance(before, bool) else "a number"
            raise SettingError(f"override '{override}': '{text}' is text, but '{key}' must be {kind} (it was {before})")
    for key in doomed:
        parent, _, last = key.rpartition(".")
        del (OmegaConf.select(cfg, parent) if parent else cfg)[last]
    return cfg
