"""Mistakes of the user, which a tool tells in one message; any other error keeps its traceback."""

import shutil
from pathlib import Path

from instseg_d2.checkpoint import CheckpointError
from instseg_d2.data.errors import DatasetError, SampleError
from instseg_d2.data.media import MediaError
from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.model_zoo import ConfigError

from .overrides import SettingError, UnknownKeyError
from .trainer import NonFiniteLossError

USER_MISTAKES = (
    CheckpointError,
    ConfigError,
    DatasetError,
    InpaintingError,
    MediaError,
    NonFiniteLossError,
    OSError,
    SampleError,
    SettingError,
    UnknownKeyError,
)


def describe(error: Exception, output_dir: str | Path | None = None) -> str:
    """What to tell the user about one of `USER_MISTAKES`.

    Args:
        error: as it was caught. One that comes out of a data loader's worker process carries that process's traceback
            in its message; only the message itself is kept.
        output_dir: where the tool writes. When given, a bare error of the operating system, such as a full disk or a
            folder without write access, is told with that folder, its free space and what to do.
    """
    text = str(error)
    if "Original Traceback" in text:
        text = text.rpartition(f"{type(error).__name__}: ")[2].rstrip()
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError) or error.errno is None or not output_dir:
        return text
    there = Path(output_dir).absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 2**20
    return (
        f"{text}; the output folder is {output_dir}, {free:.0f} MiB are free there. What was written before is whole; "
        "make room, or choose a folder with space and write access."
    )
