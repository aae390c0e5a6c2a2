"""A folder that one process at a time may work in."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Hold a folder within this context; no file is made for it.

    The lock lasts until every process that has the descriptor is gone: a child that got it by `pass_fds` keeps the
    folder locked when its parent is killed.

    Args:
        folder: must exist.
        waiting: called once a second while somebody else holds it; may raise to give up.

    Yields:
        The descriptor.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(1)
        yield descriptor
    finally:
        os.close(descriptor)
