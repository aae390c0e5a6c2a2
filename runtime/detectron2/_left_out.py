"""Placeholders for public names whose feature this runtime does not cover: they import, and raise on use."""

from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["left_out_class", "left_out_function", "left_out_error"]


def left_out_error(name: str, feature: str) -> NotImplementedError:
    """The error raised by a placeholder, naming what is missing and where to get it."""
    return NotImplementedError(
        f"{name}: this compile-free detectron2 runtime does not cover {feature}. Install upstream detectron2 "
        f"in its place to use it: pip uninstall detectron2; "
        f"pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
    )


class _LeftOutMeta(type):
    """Lets a placeholder class be named, subclassed and type-checked against; its attributes raise on access."""

    def __getattr__(cls, attribute: str) -> NoReturn:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        raise left_out_error(f"{cls.__name__}.{attribute}", cls._left_out_feature)


def left_out_class(name: str, feature: str) -> type:
    """Make a class called `name` that can be imported, subclassed and used in isinstance(), and that raises
    NotImplementedError when it is constructed or a public attribute of it is looked up.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise left_out_error(name, feature)

    namespace = {
        "__init__": __init__,
        "__doc__": f"Not covered by this runtime ({feature}).",
        "_left_out_feature": feature,
    }
    return _LeftOutMeta(name, (), namespace)


def left_out_function(name: str, feature: str) -> Callable[..., NoReturn]:
    """Make a function called `name` that raises NotImplementedError when it is called."""

    def placeholder(*args: Any, **kwargs: Any) -> NoReturn:
        raise left_out_error(name, feature)

    placeholder.__name__ = placeholder.__qualname__ = name
    placeholder.__doc__ = f"Not covered by this runtime ({feature})."
    return placeholder
