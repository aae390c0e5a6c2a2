"""Pickling of what pickle refuses: closures and lambdas."""

from typing import Any

import cloudpickle

__all__ = ["PicklableWrapper"]


class PicklableWrapper:
    """Behaves like the wrapped object, and is pickled by cloudpickle; unpickling gives the bare object."""

    def __init__(self, obj: Any):
        # Wrapped twice is wrapped once.
        self._obj = obj._obj if isinstance(obj, PicklableWrapper) else obj

    def __reduce__(self):
        return cloudpickle.loads, (cloudpickle.dumps(self._obj),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._obj(*args, **kwargs)

    def __getattr__(self, attr: str) -> Any:
        if attr == "_obj":
            # Not set yet: copy and pickle ask before __init__.
            raise AttributeError(attr)
        return getattr(self._obj, attr)
