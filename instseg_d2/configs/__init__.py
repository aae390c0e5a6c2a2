"""The shared parts of recipes. In a clone they lie in `configs/` at the top; in a wheel, here."""

from pathlib import Path

if not (Path(__file__).parent / "common").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[2] / "configs"))
