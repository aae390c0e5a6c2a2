"""Annotation files made from others, kept in a cache folder: the folder of the data is only read."""

import os
from collections.abc import Callable
from pathlib import Path

from detectron2.utils.file_io import PathManager
from filelock import FileLock

from ...files import write_whole
from ..errors import DatasetError

# Where detectron2 keeps the files that it downloads.
CACHE_VARIABLE, _CACHE = "FVCORE_CACHE", "~/.torch/iopath_cache"


def cache_folder(folder: str | os.PathLike | None = None) -> Path:
    """`folder` if given, else `instseg_d2` in the folder that `FVCORE_CACHE` names, or in `~/.torch/iopath_cache`."""
    return Path(folder or os.path.join(os.getenv(CACHE_VARIABLE, _CACHE), "instseg_d2")).expanduser()


def keep_derived(source: str | os.PathLike, target: Path, make: Callable[[], str]) -> None:
    """Write what `make` gives to `target`, unless that was done for the present `source`.

    Processes that ask at once wait for the first.

    Args:
        source: what the content is made from. A source that is replaced, even by an older file, is seen.
        target: its name must hold all else that the content depends on.
        make: the content; called at most once.

    Raises:
        DatasetError: the folder of `target` cannot be written; or what `make` raises.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            time = _modified(source)
            # The derived file bears the time of its source.
            if time is not None and target.is_file() and target.stat().st_mtime_ns == time:
                return
            write_whole(target, make())
            if time is not None:
                os.utime(target, ns=(time, time))
    except OSError as error:
        raise DatasetError(
            f"cannot keep what is made from {os.fspath(source)} in {target.parent}: {error}; set the environment "
            f"variable {CACHE_VARIABLE}, or cache_folder where there is one, to a folder with write access"
        ) from error


def _modified(path: str | os.PathLike) -> int | None:
    """When a file was last written, in nanoseconds; None when it is gone."""
    try:
        return os.stat(PathManager.get_local_path(os.fspath(path))).st_mtime_ns
    except OSError:
        return None
