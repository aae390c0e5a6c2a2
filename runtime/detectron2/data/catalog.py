"""The two global registries: from a name to a data set's records, and from a name to its metadata."""

import difflib
import logging
from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from detectron2.utils.logger import log_first_n

__all__ = ["DatasetCatalog", "MetadataCatalog", "Metadata"]


class _DatasetCatalog(UserDict):
    """Maps the name of a data set to a function without arguments that returns its records (`list[dict]` in
    detectron2's standard format, or a torch Dataset). The function runs on each `get` and must return the
    same records every time.
    """

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Add a data set. AssertionError when the name is taken or `func` cannot be called."""
        assert callable(func), f"DatasetCatalog.register('{name}', ...) needs a function, got {type(func)}"
        assert name not in self, f"a data set named '{name}' is already registered; remove() it first"
        self[name] = func

    def get(self, name: str) -> Any:
        """Load a data set. KeyError, with the nearest registered names, when there is none of that name."""
        if name not in self:
            near = difflib.get_close_matches(str(name), map(str, self), n=5)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise KeyError(
                f"no data set named '{name}' is registered.{hint} Register it with DatasetCatalog.register or "
                f"register_coco_instances before use. Registered: {', '.join(map(str, self))}"
            )
        return self[name]()

    def list(self) -> list[str]:
        """The registered names."""
        return [*self]

    def remove(self, name: str) -> None:
        """Forget a data set; same as `pop`."""
        del self[name]

    def __repr__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(map(str, self))})"

    __str__ = __repr__


class Metadata(SimpleNamespace):
    """Constant knowledge about one data set as plain attributes, such as `thing_classes`, `json_file`,
    `evaluator_type`. An attribute may be set again only to an equal value.
    """

    # A class-level default, so that an error about a missing attribute can always say which data set it is.
    name: str = "N/A"

    # Keys of old code and what they are called now.
    _RENAMED = {
        "stuff_class_names": "stuff_classes",
        "class_names": "thing_classes",
        "dataset_id_to_contiguous_id": "thing_dataset_id_to_contiguous_id",
    }

    @classmethod
    def _current_key(cls, key: str) -> str:
        new = cls._RENAMED.get(key)
        if new is None:
            return key
        log_first_n(logging.WARNING, f"metadata key '{key}' is now called '{new}'", n=10)
        return new

    def __getattr__(self, key: str) -> Any:
        if key in self._RENAMED:
            return getattr(self, self._current_key(key))
        known = ", ".join(k for k in self.__dict__ if k != "name")
        state = f"it has: {known}" if known else "its metadata is empty (has the data set been loaded once?)"
        raise AttributeError(f"data set '{self.name}' has no metadata '{key}'; {state}")

    def __setattr__(self, key: str, val: Any) -> None:
        key = self._current_key(key)
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == val, f"metadata '{key}' of '{self.name}' is already set to a different value: {old} != {val}"
        else:
            super().__setattr__(key, val)

    def as_dict(self) -> dict[str, Any]:
        """A shallow copy of all entries."""
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> "Metadata":
        """Set several entries; returns self."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The entry, or `default` when it is not set."""
        return getattr(self, key, default)


class _MetadataCatalog(UserDict):
    """Maps the name of a data set to its one `Metadata` object, which `get` creates when it is first asked for."""

    def get(self, name: str) -> Metadata:
        """The `Metadata` called `name`, always the same object for the same name."""
        assert len(name), "the name of a data set is empty"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        """The names that have metadata."""
        return [*self]

    def remove(self, name: str) -> None:
        """Forget the metadata of a data set; same as `pop`."""
        del self[name]

    def __repr__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(map(str, self))})"

    __str__ = __repr__


DatasetCatalog = _DatasetCatalog()
DatasetCatalog.__doc__ = _DatasetCatalog.__doc__

MetadataCatalog = _MetadataCatalog()
MetadataCatalog.__doc__ = _MetadataCatalog.__doc__
