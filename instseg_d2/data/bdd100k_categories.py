"""What BDD100K's labels call the objects, and which class each belongs to."""

from collections.abc import Sequence

# Of instance segmentation and both kinds of tracking, in the order of the numbers in bitmasks, from 1 on.
BDD100K_CLASSES = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")

# Names that older files have for a class.
_SYNONYMS = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle", "van": "car", "caravan": "car"}
# Objects that look like those of a class; they are neither trained nor evaluated on.
_DISTRACTORS = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}


def match_category(name: str, classes: Sequence[str]) -> tuple[int, bool] | None:
    """The class index of a category, and whether it is a distractor of that class, which is to be ignored.

    Args:
        name: the category of a label.
        classes: names in the order of class indices; they may be those of another data set.

    Returns:
        None for a category that is none of `classes`, and no other name of one.
    """
    classes = list(classes)
    if name in classes:
        return classes.index(name), False
    stands_for = _SYNONYMS.get(name, _DISTRACTORS.get(name))
    return (classes.index(stands_for), name in _DISTRACTORS) if stands_for in classes else None
