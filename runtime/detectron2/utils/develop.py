"""Stand-ins for classes and functions whose dependency is not installed."""

from collections.abc import Callable, Sequence
from typing import NoReturn

__all__ = ["create_dummy_class", "create_dummy_func"]


def _import_error(name: str, dependency: str | Sequence[str], message: str) -> ImportError:
    missing = dependency if isinstance(dependency, str) else ",".join(dependency)
    return ImportError(f"Cannot import '{missing}', therefore '{name}' is not available. {message}".rstrip())


def create_dummy_class(klass: str, dependency: str, message: str = "") -> type:
    """A class that raises ImportError, naming the dependency, when it is constructed or an attribute is read."""

    class _RaisesOnAttribute(type):
        def __getattr__(cls, attr: str) -> NoReturn:
            raise _import_error(klass, dependency, message)

    def __init__(self, *args, **kwargs) -> None:
        raise _import_error(klass, dependency, message)

    return _RaisesOnAttribute(klass, (), {"__init__": __init__})


def create_dummy_func(func: str, dependency: str | Sequence[str], message: str = "") -> Callable[..., NoReturn]:
    """A function that raises ImportError, naming the dependencies, when it is called."""

    def unavailable(*args, **kwargs) -> NoReturn:
        raise _import_error(func, dependency, message)

    return unavailable
