"""Named subsets of the ground-truth instances: by occlusion, by overlap, by size."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .truth import Annotation, GroundTruth, ImageTruth

OCCLUSION_BINS = ((0.0, 0.0), (0.0, 0.2), (0.2, 0.5), (0.5, 1.0), (0.2, 1.0))
"""Ranges (low, high] of the hidden share: nothing hidden, three degrees, and all above 0.2 together."""


class InstanceSubset:
    """Some of the instances of a data set, for an evaluation that ignores the others.

    Args:
        name: part of the name of the results.
        select: called with an annotation and its image; says whether the instance belongs to the subset. Crowd
            regions are never asked about.
    """

    # No dataclass: a config would turn its instances into config nodes.
    def __init__(self, name: str, select: Callable[[Annotation, ImageTruth], bool]):
        self.name = name
        self.select = select

    def __repr__(self) -> str:
        return f"InstanceSubset({self.name!r})"


def overlap_at_least(threshold: float) -> InstanceSubset:
    """Instances whose box is filled by one other object's mask to `threshold` or more (`ImageTruth.overlaps`)."""
    return InstanceSubset(
        f"overlap_{threshold:g}", lambda annotation, image: image.overlaps[annotation["id"]] >= threshold
    )


def covered_between(low: float, high: float) -> InstanceSubset:
    """Instances with low < covered <= high (`ImageTruth.covered`), or exactly `low` when both are equal.

    Raises:
        ValueError: not 0 <= low <= high <= 1.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"a range of hidden shares must be 0 <= low <= high <= 1, not [{low}, {high}]")
    return InstanceSubset(
        f"covered_{range_label(low, high)}", lambda one, image: in_range(image.covered(one), low, high)
    )


def touching_same_class() -> InstanceSubset:
    """Instances whose mask touches that of another object of their class (`ImageTruth.neighbors`)."""
    return InstanceSubset(
        "touching_same_class",
        lambda one, image: any(x["category_id"] == one["category_id"] for x in image.neighbors[one["id"]]),
    )


def touching_same_color(distance: float = 20.0) -> InstanceSubset:
    """Instances whose mask touches that of an object of another class and of nearly their colour.

    Args:
        distance: of the mean colours in CIE L*a*b* (`ImageTruth.colors`), at most.
    """

    def select(one: Annotation, image: ImageTruth) -> bool:
        return any(
            other["category_id"] != one["category_id"]
            and np.linalg.norm(image.colors[one["id"]] - image.colors[other["id"]]) <= distance
            for other in image.neighbors[one["id"]]
        )

    return InstanceSubset("touching_same_color", select)


def area_between(low: float, high: float) -> InstanceSubset:
    """Instances whose `area` in the annotation file is above `low` and not above `high`, in pixels.

    Unlike the ranges of APs, APm and APl this ignores no detection by its size.
    """
    name = f"area_{range_label(low, high)}"
    return InstanceSubset(name, lambda annotation, image: in_range(annotation["area"], low, high))


def in_range(value: float, low: float, high: float) -> bool:
    """Whether low < value <= high, or value == low when both ends are equal."""
    return low < value <= high or value == low == high


def range_label(low: float, high: float) -> str:
    """Short text of a range: "0", "0-0.2"."""
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def occlusion_subsets(bins: Iterable[Sequence[float]]) -> dict[str, InstanceSubset]:
    """The subset of each range of the hidden share, such as those of `OCCLUSION_BINS`, by label."""
    return {range_label(low, high): covered_between(low, high) for low, high in bins}


def selected_ids(truth: GroundTruth, subsets: Iterable[InstanceSubset]) -> list[set]:
    """Annotation ids in each subset; one walk over the images.

    Raises:
        DatasetError: the data set does not say what a subset asks for.
    """
    subsets = list(subsets)
    selected: list[set] = [set() for _ in subsets]
    for image_id in truth.coco.imgs if subsets else ():
        image = truth.image(image_id)
        for annotation in image.objects:
            for subset, ids in zip(subsets, selected, strict=True):
                if subset.select(annotation, image):
                    ids.add(annotation["id"])
    return selected
