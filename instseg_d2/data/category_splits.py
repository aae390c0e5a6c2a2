"""Named sets of categories, of which some have masks in training and the others are tested on."""

import difflib
from collections.abc import Iterable, Sequence

import numpy as np
from detectron2.data import MetadataCatalog

from .errors import DatasetError
from .synthetic.outlines import SEEN, UNSEEN

_COCO = tuple(MetadataCatalog.get("coco_2017_val").thing_classes)

# COCO's names of the twenty PASCAL VOC classes, by index; `couch` (57) is VOC's sofa, and `bench` (13) is not VOC's.
_VOC = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv"),
)

# What OPMask adds to VOC in its set of forty, by index.
_OPMASK = (
    *("traffic light", "fire hydrant", "bench", "giraffe", "backpack", "umbrella", "handbag", "skateboard", "fork"),
    *("apple", "sandwich", "orange", "hot dog", "donut", "toilet", "laptop", "toaster", "clock", "scissors"),
    "toothbrush",
)


def _sweep() -> tuple[str, ...]:
    """All of COCO in the order in which the sweep over the number of seen categories adds them."""
    first = _VOC + _OPMASK
    rest = [name for name in _COCO if name not in first]
    # RandomState: NumPy promises that its stream never changes.
    return (*first, *(rest[index] for index in np.random.RandomState(3).permutation(len(rest))))


CATEGORY_SPLITS: dict[str, tuple[str, ...]] = {
    "coco_voc": _VOC,
    "coco_nonvoc": tuple(name for name in _COCO if name not in _VOC),
    **{f"coco_seen{count}": _sweep()[:count] for count in (20, 30, 40, 50, 60)},
    "coco_never_seen": _sweep()[60:],
    "occshapes_seen": tuple(SEEN),
    "occshapes_unseen": tuple(UNSEEN),
}
"""Names of categories by the name of the split.

`coco_voc` and `coco_nonvoc` divide COCO's 80 categories into 20 and 60; each is the seen half of one direction.
`coco_seen20` to `coco_seen60` are nested, from VOC upwards: the forty are OPMask's, the thirty have the first ten
of its additions; `coco_never_seen` are the twenty that are unseen in all of them. `occshapes_seen` and
`occshapes_unseen` divide the ten of OccShapes.
"""


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=3)
    return f" (near: {', '.join(close)})" if close else ""


def category_names(categories: str | Iterable[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """Names of categories in the order of class indices.

    Args:
        categories: the name of a split of `CATEGORY_SPLITS`, or names of categories.
        class_names: of the data set, by class index.

    Raises:
        DatasetError: there is no such split, or the data set has no such category; the message shows near ones.
    """
    where = ""
    if isinstance(categories, str):
        if categories not in CATEGORY_SPLITS:
            raise DatasetError(
                f"there is no category split '{categories}'{_near(categories, CATEGORY_SPLITS)}; the splits are "
                f"{', '.join(CATEGORY_SPLITS)}; give names of categories as a list: ['{categories}']"
            )
        where = f" of the split '{categories}'"
    wanted = CATEGORY_SPLITS[categories] if isinstance(categories, str) else tuple(categories)
    unknown = [name for name in wanted if name not in class_names]
    if unknown:
        listed = ", ".join(f"'{name}'{_near(name, class_names)}" for name in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DatasetError(
            f"the data set has no category {listed}{more}{where}; it has {len(class_names)}: {', '.join(class_names)}"
        )
    return tuple(name for name in class_names if name in wanted)


def other_categories(categories: str | Iterable[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """The rest: names of all categories of the data set but these, in the order of class indices.

    Args and errors are those of `category_names`.
    """
    taken = category_names(categories, class_names)
    return tuple(name for name in class_names if name not in taken)


def seen_and_unseen(
    seen: str | Iterable[str], class_names: Sequence[str], **further: str | Iterable[str]
) -> dict[str, str | Iterable[str]]:
    """Subsets of categories for an evaluation of partial supervision, by name.

    Args:
        seen: see `category_names`.
        class_names: see there.
        further: other subsets by name; they stay as they are.

    Returns:
        `seen`, `unseen` (all other categories of the data set), and the further ones. A half without a category is
        left out, as there is nothing to measure.

    Raises:
        DatasetError: see `category_names`.
    """
    halves = {"seen": category_names(seen, class_names), "unseen": other_categories(seen, class_names)}
    return {**{name: half for name, half in halves.items() if half}, **further}
