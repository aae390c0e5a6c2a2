"""Configs by name: `get_config("Baselines/mask_rcnn_r50_fpn_coco_1x")` works in the clone and from a wheel.

`python -m instseg_d2.model_zoo list` prints the names; `check` loads every config.
"""

import argparse
import difflib
import fnmatch
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from instseg_d2 import projects

RECIPE_KEYS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


class ConfigError(ValueError):
    """A config file does not load, or is no recipe; the message names the file, and the line where there is one."""


def _config_folders() -> Iterator[tuple[str, Path]]:
    for root in projects.__path__:
        for folder in sorted(Path(root).glob("*/configs")):
            yield folder.parent.name, folder


def list_configs(pattern: str = "*") -> list[str]:
    """Names of all recipes, `Project/file`, that match a shell pattern such as `"*_quick"`."""
    names = (
        f"{project}/{path.relative_to(folder).with_suffix('').as_posix()}"
        for project, folder in _config_folders()
        for path in sorted(folder.rglob("*.py"))
        if not path.name.startswith("_")
    )
    return [name for name in names if fnmatch.fnmatch(name, pattern)]


def config_path(name_or_path: str | os.PathLike) -> Path:
    """The file behind a recipe.

    Args:
        name_or_path: a path to a config file, or a name as `list_configs` gives it, with or without `.py`.

    Raises:
        FileNotFoundError: neither a file nor a known name; the message lists the nearest names.
    """
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    name = Path(name_or_path).as_posix().removesuffix(".py")
    for project, folder in _config_folders():
        path = folder / f"{name.removeprefix(project + '/')}.py"
        if name.startswith(f"{project}/") and path.is_file():
            return path
    known = list_configs()
    by_file_name = {entry.rpartition("/")[2]: entry for entry in known}
    near = difflib.get_close_matches(name, known, n=3) + [
        by_file_name[match] for match in difflib.get_close_matches(Path(name).name, by_file_name, n=3)
    ]
    hint = f"nearest: {', '.join(dict.fromkeys(near))}" if near else f"known: {', '.join(known)}"
    raise FileNotFoundError(f"no config file and no recipe named '{name_or_path}' ({hint})")


def get_config(name_or_path: str | os.PathLike) -> DictConfig:
    """Load a recipe afresh: a config with the five keys `model, dataloader, optimizer, lr_multiplier, train`.

    Raises:
        FileNotFoundError: see `config_path`.
        ConfigError: the file raises an error, or lacks one of the five keys. Errors of this package that a file
            raises, such as `DatasetError`, stay what they are.
    """
    path = config_path(name_or_path)
    try:
        cfg = LazyConfig.load(str(path))
    except Exception as error:
        if type(error).__module__.partition(".")[0] == __package__:
            raise
        raise ConfigError(_explain(error, path)) from error
    missing = [key for key in RECIPE_KEYS if key not in cfg]
    if missing:
        raise ConfigError(f"{path}: no {' and no '.join(missing)}; a recipe defines {', '.join(RECIPE_KEYS)}")
    return cfg


def _explain(error: Exception, path: Path) -> str:
    """`file:line: what`, for an error that came out of running a config file."""
    syntax = error if getattr(error, "lineno", None) else error.__cause__
    if isinstance(syntax, SyntaxError):
        if not Path(syntax.filename).is_file():  # upstream parses a text without name, and tells the file apart
            return f"{error} Line {syntax.lineno}: {type(syntax).__name__}: {syntax.msg}"
        return f"{syntax.filename}:{syntax.lineno}: {type(syntax).__name__}: {syntax.msg}"
    # The innermost file that was being run or imported: the config itself, one that it builds on, or its own module.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(path)
    return f"{place}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _check() -> int:
    """Load every recipe, print what fails, and return the number of failures."""
    failed = 0
    names = list_configs()
    for name in names:
        try:
            get_config(name)
        except Exception:
            failed += 1
            print(f"{name}: does not load\n{traceback.format_exc()}", file=sys.stderr)
    print(f"{len(names) - failed} of {len(names)} configs load")
    return failed


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m instseg_d2.model_zoo`."""
    parser = argparse.ArgumentParser(prog="python -m instseg_d2.model_zoo", description="Recipes by name.")
    parser.add_argument("action", choices=["list", "check"], help="print the names, or load every recipe")
    parser.add_argument("pattern", nargs="?", default="*", help='shell pattern for `list`, e.g. "*_quick"')
    args = parser.parse_args(argv)
    if args.action == "check":
        return 1 if _check() else 0
    print("\n".join(list_configs(args.pattern)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
