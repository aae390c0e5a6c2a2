"""Logger set-up, rate-limited logging, and small text tables."""

import atexit
import copy
import functools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from tabulate import tabulate
from termcolor import colored

from detectron2.utils.file_io import PathManager

__all__ = ["setup_logger", "log_first_n", "log_every_n", "log_every_n_seconds"]

D2_LOG_BUFFER_SIZE_KEY = "D2_LOG_BUFFER_SIZE"
DEFAULT_LOG_BUFFER_SIZE = 1024 * 1024

_DATE_FORMAT = "%m/%d %H:%M:%S"


class _ColorfulFormatter(logging.Formatter):
    """Puts a coloured level in front of warnings and errors, and shortens the root of the logger's name."""

    _LEVEL_MARKS = {
        logging.WARNING: ("WARNING", ["blink"]),
        logging.ERROR: ("ERROR", ["blink", "underline"]),
        logging.CRITICAL: ("ERROR", ["blink", "underline"]),
    }

    def __init__(self, *args, root_name: str, abbrev_name: str = "", **kwargs):
        super().__init__(*args, **kwargs)
        self._root = root_name + "."
        self._short_root = abbrev_name + "." if abbrev_name else ""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        if record.name.startswith(self._root):
            # On a copy: other handlers see the same record.
            record = copy.copy(record)
            record.name = self._short_root + record.name[len(self._root) :]
        line = super().formatMessage(record)
        if record.levelno in self._LEVEL_MARKS:
            text, attrs = self._LEVEL_MARKS[record.levelno]
            line = f"{colored(text, 'red', attrs=attrs)} {line}"
        return line


@functools.cache
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Let a logger write all levels to stdout (rank 0) and to a file (every rank).

    The same arguments again give the same logger, without a second handler.

    Args:
        output: a ``.txt`` or ``.log`` file, or a folder, then ``log.txt`` in it; None writes no file.
            Ranks above 0 append ``.rank<N>`` to the name.
        distributed_rank: rank of this process.
        color: colour the lines on stdout.
        name: name of the logger, the root module.
        abbrev_name: what stands for the root module on stdout; "" drops it; None shortens "detectron2" to "d2".
        enable_propagation: pass records to the parent logger too.
        configure_stdout: False leaves stdout alone.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE_FORMAT)

    if configure_stdout and distributed_rank == 0:
        formatter = plain
        if color:
            if abbrev_name is None:
                abbrev_name = "d2" if name == "detectron2" else name
            formatter = _ColorfulFormatter(
                colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s",
                datefmt=_DATE_FORMAT,
                root_name=name,
                abbrev_name=str(abbrev_name),
            )
        _add_stream(logger, sys.stdout, formatter)

    if output is not None:
        output = os.fspath(output)
        filename = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            filename += f".rank{distributed_rank}"
        if folder := os.path.dirname(filename):
            PathManager.mkdirs(folder)
        _add_stream(logger, _open_log_file(filename), plain)
    return logger


def _add_stream(logger: logging.Logger, stream, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


@functools.cache
def _open_log_file(filename: str):
    """One open file per name, so that several loggers can append to it."""
    buffering = -1
    if "://" in filename:
        # Remote storage suffers from many small writes.
        buffering = int(os.environ.get(D2_LOG_BUFFER_SIZE_KEY, DEFAULT_LOG_BUFFER_SIZE))
    stream = PathManager.open(filename, "a", buffering=buffering)
    atexit.register(stream.close)
    return stream


_LOG_COUNTER: Counter = Counter()
_LOG_TIMER: dict[tuple, float] = {}


def _find_caller() -> tuple[str, tuple[str, int, str]]:
    """Module name of the first frame outside this file, and a key that identifies the line."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == _find_caller.__code__.co_filename:
        frame = frame.f_back
    module = frame.f_globals["__name__"]
    code = frame.f_code
    key = (code.co_filename, frame.f_lineno, code.co_name)
    return ("detectron2" if module == "__main__" else module), key


def log_first_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple[str, ...] = "caller"):
    """Log only the first `n` times.

    Args:
        lvl: logging level.
        msg: message.
        n: how often.
        name: logger to use, by default the caller's module.
        key: what counts as the same log: "caller" (the line of code), "message", or both in a tuple.
    """
    keys = (key,) if isinstance(key, str) else tuple(key)
    assert keys, "log_first_n needs a key: 'caller', 'message' or both."
    module, line = _find_caller()
    identity: tuple = ()
    if "caller" in keys:
        identity += line
    if "message" in keys:
        identity += (msg,)
    _LOG_COUNTER[identity] += 1
    if _LOG_COUNTER[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first of every `n` calls from the same line; `name` is the logger, by default the caller's module."""
    module, line = _find_caller()
    earlier_calls = _LOG_COUNTER[line]
    _LOG_COUNTER[line] += 1
    if earlier_calls % n == 0:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log from the same line at most once in `n` seconds; `name` is the logger, by default the caller's module."""
    module, line = _find_caller()
    now = time.time()
    if now - _LOG_TIMER.get(line, float("-inf")) >= n:
        _LOG_TIMER[line] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """Render a dict of a few numbers as a table of one row, with the keys as the header."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        numalign="center",
        stralign="center",
        floatfmt=".3f",
        tablefmt="pipe",
    )


def _log_api_usage(identifier: str) -> None:
    """Count the use of a component in torch's once-per-process API log; silent unless that log is switched on."""
    torch._C._log_api_usage_once("detectron2." + identifier)
