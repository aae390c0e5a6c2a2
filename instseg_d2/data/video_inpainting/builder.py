"""A set of hidden objects out of any tracks: chosen, hidden, written in YouTube-VOI's layout, and counted."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import DatasetError
from ..media import load_image
from ..synthetic.folders import check_target, encode_png, run_all, whole_folder
from .appearance import RENDERINGS, colour, render
from .keys import generator_of, hash_masks, split_of
from .occlusion import Occlusion, OcclusionRules, occlude
from .report import BuildReport, build_report
from .shapes import silhouettes
from .sources import Source
from .tracks import Track, TrackRules
from .voi import MANIFEST_FILE, MASKS, OCCLUDER_FOLDER, TRACK_FOLDER

# Raised whenever the same seed gives other masks than before.
GENERATOR_VERSION = "1"

_GENERATOR = "voi"


@dataclass(frozen=True, kw_only=True)
class VOIBuild:
    """What a set is made of; the same build gives the same masks.

    Attributes:
        source: where tracks come from.
        seed: of all chance, together with the names of data set, video and object.
        variants: occlusions of each target.
        targets: which tracks are hidden.
        occlusions: by what.
        appearance: also write the colours of occluders. The published set has masks alone.
        renderings: also write frames as pictures for other programs, some of `RENDERINGS`, in folders of these names.
    """

    source: Source
    seed: int = 0
    variants: int = 1
    targets: TrackRules = field(default_factory=TrackRules)
    occlusions: OcclusionRules = field(default_factory=OcclusionRules)
    appearance: bool = True
    renderings: tuple[str, ...] = ()

    def __post_init__(self):
        if self.variants < 1 or self.seed < 0 or not set(self.renderings) <= set(RENDERINGS):
            raise DatasetError(
                f"variants must be 1 or more, seed 0 or more, renderings some of {', '.join(RENDERINGS)}; got {self}"
            )
        if self.renderings and not self.appearance:
            raise DatasetError("pictures of frames need the colours of occluders: appearance=True")


@dataclass(frozen=True, eq=False)
class _Targets:
    """Tracks that can be hidden, in the order of their keys, and how many others there are by the reason."""

    tracks: tuple[Track, ...]
    rejected: dict[str, int]

    def others(self, track: Track) -> list[Track]:
        """Those that may hide a track: of other videos of the same split."""
        split = split_of(track.video)
        return [one for one in self.tracks if one.video != track.video and split_of(one.video) == split]

    def alone(self) -> int:
        """How many tracks there are that none of the others may hide."""
        videos = Counter(split_of(video) for video in {track.video for track in self.tracks})
        return sum(videos[split_of(track.video)] == 1 for track in self.tracks)


@lru_cache(maxsize=1)
def _targets(source: Source, rules: TrackRules) -> _Targets:
    """Read and choose; one set at a time, since a worker process reads it for its first track."""
    kept, rejected = [], {}
    for track in sorted(source.read(), key=lambda track: track.key):
        chosen, reason = rules.judge(track)
        if chosen is None:
            rejected[reason] = rejected.get(reason, 0) + 1
        else:
            kept.append(chosen)
    return _Targets(tuple(kept), rejected)


def _hide(build: VOIBuild, number: int) -> tuple[Track, str, Occlusion | None, np.ndarray | None]:
    """One target, its name, an occluder, and a texture for it."""
    targets = _targets(build.source, build.targets)
    track, variant = targets.tracks[number // build.variants], number % build.variants
    rng = generator_of(GENERATOR_VERSION, build.seed, *track.key, variant)
    others = targets.others(track)

    def draw_track(chance: np.random.Generator, length: int):
        return silhouettes(others[chance.integers(len(others))], length)

    occlusion = occlude(track.stack(), rng, build.occlusions, draw_track if others else None)
    name = f"{track.identity}_{variant}" if variant else str(track.identity)
    if occlusion is None or not build.appearance:
        return track, name, occlusion, None
    if others:
        files = others[rng.integers(len(others))].files
        return track, name, occlusion, load_image(files[rng.integers(len(files))])
    # Upside down, so that it does not continue the frame it is laid over.
    return track, name, occlusion, load_image(track.files[rng.integers(len(track.files))])[::-1, ::-1]


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))


def _write_one(number: int, *, build: VOIBuild, folder: str) -> dict[str, Any] | None:
    """Hide a target and write it; its row of the manifest, or None if it could not be hidden."""
    track, name, occlusion, texture = _hide(build, number)
    if occlusion is None:
        return None
    full = track.stack()
    stacks = dict(zip(MASKS, (full, full & occlusion.masks, occlusion.masks, full & ~occlusion.masks), strict=True))
    place = f"{TRACK_FOLDER}/{track.video}/{name}"
    for frame, file in enumerate(track.files):
        target = Path(folder) / place
        for kind, stack in stacks.items():
            _write(target / kind / f"{file.stem}.png", stack[frame].astype(np.uint8) * 255)
        if build.appearance:
            occluder = colour(occlusion, frame, texture)
            _write(target / OCCLUDER_FOLDER / f"{file.stem}.png", occluder)
        for rendering in build.renderings:
            hidden = stacks["occ_mask"][frame]
            picture = render(load_image(file), hidden=hidden, occluder=occluder, rendering=rendering)
            _write(target / rendering / f"{file.stem}.png", picture)
    return {
        "folder": place,
        "video": track.video,
        "id": track.identity,
        "name": name,
        "category": track.category,
        "split": split_of(track.video),
        "files": [Path(os.path.relpath(file, build.source.images)).as_posix() for file in track.files],
        "family": occlusion.family,
        "motion": occlusion.motion,
        "degree": build.occlusions.bin_of(occlusion.degree),
        "mean_covered": round(occlusion.degree, 4),
        "covered": [round(float(share), 4) for share in occlusion.covered],
        "sha256": {kind: hash_masks(stack) for kind, stack in stacks.items()},
    }


def plan_voi(build: VOIBuild) -> BuildReport:
    """What a build would hide, without hiding or writing anything.

    Raises:
        DatasetError: the source cannot be read.
    """
    targets = _targets(build.source, build.targets)
    rows = [
        {"split": split_of(track.video), "category": track.category, "frames": len(track.files)}
        for track in targets.tracks
        for _ in range(build.variants)
    ]
    return build_report(rows, build.occlusions, rejected=targets.rejected, alone=targets.alone() * build.variants)


def write_voi_set(
    out: str | os.PathLike,
    build: VOIBuild,
    *,
    workers: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> BuildReport:
    """Hide every target of a source, and write masks, colours of occluders and `tracks.json`.

    Frames are not copied: `tracks.json` says where they are relative to the set. The set appears under its name when
    it is complete; an interrupted run leaves nothing.

    Args:
        out: folder to write; must be absent or empty, unless `overwrite`.
        build: what to make.
        workers: processes; 0 or 1 works in this one.
        overwrite: replace a folder that this function wrote.
        progress: show a progress bar of what is written; reading shows one on a terminal.

    Raises:
        DatasetError: `out` is in the way, the source cannot be read, or none of its tracks can be hidden.
        OSError: a file cannot be written.
    """
    out = Path(out)
    check_target(out, overwrite, marker=MANIFEST_FILE, generator=_GENERATOR)
    targets = _targets(build.source, build.targets)
    count = len(targets.tracks) * build.variants
    if not count:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(targets.rejected.items()))
        raise DatasetError(
            f"no track of {build.source.name} can be a target ({reasons or 'it has none'}); ease the rules"
        )
    with whole_folder(out) as fresh:
        work = run_all(partial(_write_one, build=build, folder=str(fresh)), count, workers)
        rows = list(tqdm(work, total=count, desc="occlusions", unit="track", disable=not progress))
        written = [row for row in rows if row is not None]
        if not written:
            raise DatasetError(
                f"none of {count} targets could be hidden as the rules ask in {build.occlusions.tries} tries; ease them"
            )
        (fresh / MANIFEST_FILE).write_text(json.dumps(_manifest(out, build, written), indent=1))
    rows = [{**row, "frames": len(row["files"])} for row in written]
    return build_report(
        rows,
        build.occlusions,
        rejected=targets.rejected,
        alone=targets.alone() * build.variants,
        failed=count - len(written),
    )


def _manifest(out: Path, build: VOIBuild, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = sorted({row["category"] for row in rows if row["category"] is not None})
    return {
        "info": {
            "description": "objects with synthetic occlusion, in the layout of YouTube-VOI",
            "generator": _GENERATOR,
            "version": GENERATOR_VERSION,
            "dataset": build.source.name,
            "seed": build.seed,
            "variants": build.variants,
            "targets": asdict(build.targets),
            "occlusions": asdict(build.occlusions),
            "images": Path(os.path.relpath(build.source.images.resolve(), out.resolve())).as_posix(),
        },
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        "tracks": list(rows),
    }
