"""One folder per paper. In a clone they lie in `projects/` at the top; in a wheel, here."""

from pathlib import Path

if not (Path(__file__).parent / "Baselines").is_dir():
    __path__.append(str(Path(__file__).resolve().parents[2] / "projects"))
