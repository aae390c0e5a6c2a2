"""A sequence of any length in overlapping pieces of bounded length."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from .errors import InpaintingError

T = TypeVar("T")


def runs(items: Iterable[T], *, size: int, margin: int) -> Iterator[tuple[list[T], range]]:
    """Cut a sequence into runs that overlap, and say which items to take from which run.

    Items are drawn as they are needed, and at most `size` are held.

    Args:
        items: of any number.
        size: of a run.
        margin: of a run, that many items at either end only serve the others, unless the sequence ends there.

    Yields:
        the items of a run, in a list that changes afterwards, and the indices, in the run, of those to take. Over all
        runs each item is taken once, in order.

    Raises:
        InpaintingError: a run would only have items that serve others.
    """
    if margin < 0 or size <= 2 * margin:
        raise InpaintingError(f"a run must be longer than its two margins, got size={size} and margin={margin}")
    held: list[T] = []
    first = 0
    for item in items:
        if len(held) == size:
            yield held, range(first, size - margin)
            del held[: size - 2 * margin]
            first = margin
        held.append(item)
    if held:
        yield held, range(first, len(held))
