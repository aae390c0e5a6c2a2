"""Generated folders: they appear complete under their name, replace only their own kind, and are filled in parallel."""

import json
import multiprocessing
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from ..errors import DatasetError

Result = TypeVar("Result")

# PNG: exact pixels; level 1 is as fast as JPEG for pictures this small.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


def check_target(out: Path, overwrite: bool, *, marker: str, generator: str) -> None:
    """Make sure that a generator may write the folder `out`.

    Args:
        out: absent, empty, or with `overwrite` a folder that the same generator wrote.
        overwrite: whether such a folder may be replaced.
        marker: json file in it whose `info.generator` names who wrote it.
        generator: name of the generator that asks.

    Raises:
        DatasetError: `out` is in the way.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise DatasetError(f"{out} is a file; give a folder")
    if not overwrite:
        raise DatasetError(
            f"{out} is not empty; give another folder, or overwrite it: overwrite=True, on the command line --overwrite"
        )
    try:
        written_by = json.loads((out / marker).read_text())["info"]["generator"]
    except (OSError, ValueError, KeyError, TypeError):
        written_by = None
    if written_by != generator:
        raise DatasetError(
            f"{out} was not written by this generator (no {marker} of {generator} in it), so it is not "
            "overwritten; delete it by hand, or give another folder"
        )


def _replace_folder(fresh: Path, out: Path) -> None:
    retired = None
    if out.exists():
        retired = out.with_name(f".{out.name}.retired-{uuid.uuid4().hex[:8]}")
        os.rename(out, retired)
    os.rename(fresh, out)
    if retired is not None:
        shutil.rmtree(retired, ignore_errors=True)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` at the end; an error or interrupt leaves `out` as it was."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    fresh.mkdir()
    try:
        yield fresh
        _replace_folder(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def run_all(task: Callable[[int], Result], count: int, workers: int) -> Iterator[Result]:
    """Results of `task(0)` to `task(count - 1)` in order, from this process (workers 0 or 1) or from several."""
    if workers <= 1:
        yield from map(task, range(count))
        return
    # Fresh interpreters: a fork of a process that has run threads can hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(task, range(count), chunksize=max(1, min(64, count // (4 * workers))))


def encode_png(image: np.ndarray) -> bytes:
    """PNG of a grey, BGR or BGRA uint8 picture."""
    return cv2.imencode(".png", image, _PNG)[1].tobytes()
