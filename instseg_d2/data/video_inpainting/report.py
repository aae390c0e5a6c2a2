"""What is in a set of hidden objects, as tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from .keys import SPLITS
from .motion import MOTIONS
from .occlusion import FAMILIES, OcclusionRules


@dataclass(frozen=True)
class BuildReport:
    """Counts of tracks of a set.

    Attributes:
        tracks: by split.
        frames: by split.
        classes: by name.
        degrees: by bin of the mean hidden share, in words; empty for what is only planned.
        families: by kind of occluder; empty for what is only planned.
        motions: by kind of motion; empty for what is only planned.
        rejected: tracks that are no targets, by reason.
        alone: targets without another video in their split, which only strokes and blobs can hide.
        failed: targets that no occluder was found for.
    """

    tracks: dict[str, int]
    frames: dict[str, int]
    classes: dict[str, int]
    degrees: dict[str, int]
    families: dict[str, int]
    motions: dict[str, int]
    rejected: dict[str, int]
    alone: int
    failed: int

    def __str__(self) -> str:
        size = [(split, self.tracks[split], self.frames[split]) for split in SPLITS]
        size.append(("all", sum(self.tracks.values()), sum(self.frames.values())))
        parts = [tabulate(size, ("split", "tracks", "frames"))]
        for title, counts in (
            ("class", self.classes),
            ("mean hidden share", self.degrees),
            ("occluder", self.families),
            ("motion", self.motions),
            ("left out because", self.rejected),
        ):
            if counts:
                total = max(sum(counts.values()), 1)
                rows = [(name, count, f"{count / total:.0%}") for name, count in counts.items()]
                parts.append(tabulate(rows, (title, "tracks", "share")))
        if self.alone:
            parts.append(f"{self.alone} targets have no other video in their split: no other object hides them")
        if self.failed:
            parts.append(f"{self.failed} targets were given up: no occluder kept the rules")
        return "\n\n".join(parts)


def build_report(
    rows: Sequence[Mapping[str, Any]],
    rules: OcclusionRules,
    *,
    rejected: Mapping[str, int],
    alone: int,
    failed: int = 0,
) -> BuildReport:
    """Count rows with `split`, `category` and `frames`, and, once they are hidden, `degree`, `family` and `motion`."""
    classes = Counter(row["category"] or "(unknown)" for row in rows)
    hidden = bool(rows) and "degree" in rows[0]

    def count(key: str, names: Sequence[Any]) -> dict[Any, int]:
        found = Counter(row[key] for row in rows)
        return {name: found[name] for name in names}

    bins = rules.bins()
    degrees = count("degree", range(len(bins))) if hidden else {}
    return BuildReport(
        tracks=count("split", SPLITS),
        frames={split: sum(row["frames"] for row in rows if row["split"] == split) for split in SPLITS},
        classes=dict(sorted(classes.items())),
        degrees={bins[number]: tracks for number, tracks in degrees.items()},
        families=count("family", FAMILIES) if hidden else {},
        motions=count("motion", MOTIONS) if hidden else {},
        rejected=dict(sorted(rejected.items())),
        alone=alone,
        failed=failed,
    )
