"""`Instances`: the objects of one image, one field per attribute."""

from __future__ import annotations

import itertools
from typing import Any

import torch


class Instances:
    """Objects of one image, stored by attribute ("field"): boxes, classes, scores, masks, ...

    Every public attribute is a field: ``instances.scores = t`` adds one, ``instances.scores`` reads it. A field is
    anything with a length, and all fields of an object have the same one. Fields may be tensors, lists, or containers
    like `Boxes`, as long as they can be indexed. Indexing selects objects in all fields at once
    (``instances[instances.scores > 0.5]``).
    Names that start with an underscore are ordinary Python attributes.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        """Args: image_size: (height, width) in pixels. kwargs: the first fields."""
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image that coordinates refer to."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # Reached only where ordinary lookup failed. `_fields` itself is absent while unpickling or copying.
        fields = self.__dict__.get("_fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"Instances has no field '{name}' (fields: {', '.join(fields) or 'none'})")

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field.

        Raises:
            AssertionError: `value` is not as long as the fields that are there.
        """
        count = len(value)
        if self._fields:
            assert len(self) == count, f"field '{name}' has length {count}, but there are {len(self)} instances"
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        """Delete a field; KeyError if it is not there."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """A field by its name; KeyError if it is not there."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields: the dict of this object itself, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """A new object with ``field.to(...)`` for each field that has such a method; the others are shared."""
        return self._rebuilt(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def __getitem__(self, item: int | slice | torch.Tensor) -> Instances:
        """Select objects in all fields by an int, a slice, an index tensor, or a bool tensor.

        Raises:
            IndexError: an int that is out of range.
        """
        if type(item) is int:
            count = len(self)
            if not -count <= item < count:
                raise IndexError(f"index {item} is out of range for {count} instances")
            # A slice of length one keeps each field a sequence.
            item = slice(item % count, item % count + 1)
        return self._rebuilt(lambda value: value[item])

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without any field have no length")

    def __iter__(self):
        raise NotImplementedError("Instances cannot be iterated over: index them, or iterate over a field")

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """Join the objects of several `Instances` of the same image size and fields.

        Tensors are concatenated along the first dimension, lists are chained, other types use their own ``cat``.
        A list of one is returned as it is.

        Raises:
            AssertionError: nothing to join, other types, or image sizes that differ.
            KeyError: a later object lacks a field of the first.
            ValueError: a field of a type that cannot be joined.
        """
        assert len(instance_lists) > 0, "Instances.cat needs at least one Instances"
        assert all(isinstance(inst, Instances) for inst in instance_lists), "Instances.cat takes Instances only"
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        sizes = {tuple(int(side) for side in inst.image_size) for inst in instance_lists}
        assert len(sizes) == 1, f"instances of different image sizes cannot be joined: {sorted(sizes)}"
        joined = Instances(first.image_size)
        for name in first._fields:
            joined.set(name, _join(name, [inst.get(name) for inst in instance_lists]))
        return joined

    def __str__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        count = len(self) if self._fields else 0
        return (
            f"{type(self).__name__}(num_instances={count}, image_height={height}, image_width={width}, "
            f"fields=[{fields}])"
        )

    __repr__ = __str__

    def _rebuilt(self, change) -> Instances:
        result = Instances(self._image_size)
        for name, value in self._fields.items():
            result.set(name, change(value))
        return result


def _join(name: str, values: list[Any]) -> Any:
    kind = type(values[0])
    if issubclass(kind, torch.Tensor):
        return torch.cat(values)
    if issubclass(kind, list):
        return list(itertools.chain.from_iterable(values))
    if hasattr(kind, "cat"):
        return kind.cat(values)
    raise ValueError(f"field '{name}' of type {kind.__name__} cannot be joined: it needs a static method 'cat'")
