"""Which masks training may see: full, partial by categories, boxes alone, few shots.

Masks are taken out of the records when these are loaded, before any mapper, augmentation or model: what is not there
cannot leak into a loss. The boxes and classes of hidden instances stay. In a recipe:

    dataloader.train.dataset.update(
        _target_=get_supervised_dataset_dicts, supervision=L(PartialSupervision)(seen="occshapes_seen")
    )

`InstanceMapper` then gives `gt_has_mask` for every image, and a filled box in the place of each hidden mask.

A file is read and checked as a whole before this: whatever the supervision, one with broken masks is refused.
"""

import hashlib
import heapq
import logging
import operator
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode

from .category_splits import category_names
from .errors import DatasetError
from .shot_list import Shot, ShotList

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Annotation = dict[str, Any]

# What a hidden instance keeps. A list of what stays, not of what goes: data sets keep masks, or figures drawn from
# them such as areas, under many names.
_BOX_KEYS = ("id", "instance_id", "bbox", "bbox_mode", "category_id", "iscrowd")

# Entries of a record, beside its annotations, that show masks of all instances.
_MASK_ENTRIES = frozenset({"sem_seg_file_name", "sem_seg", "pan_seg_file_name", "segments_info"})

# Entries of an annotation that say something of its neighbours' masks: polygons of the occluders (BCNet), their ids.
_NEIGHBOUR_KEYS = frozenset({"bg_object_segmentation", "occluders"})


def without_mask(annotation: Annotation) -> Annotation:
    """A copy that keeps box, class and identity alone, marked with `has_mask` False."""
    return {**{key: annotation[key] for key in _BOX_KEYS if key in annotation}, "has_mask": False}


class Supervision(ABC):
    """Decides what of a training set may be seen. A call gives new records and leaves the given ones as they are."""

    @abstractmethod
    def __call__(self, records: Iterable[Record], class_names: Sequence[str]) -> list[Record]:
        """Records in detectron2's format without what is hidden.

        Args:
            records: with `annotations`, whose `category_id` is an index of `class_names`.
            class_names: names of the categories.

        Raises:
            DatasetError: a named category does not exist, or there is less than was asked for.
        """


class FullSupervision(Supervision):
    """Everything may be seen: the records as they are."""

    def __call__(self, records: Iterable[Record], class_names: Sequence[str]) -> list[Record]:
        return list(records)


class PartialSupervision(Supervision):
    """Boxes of all categories, masks of the seen ones (CPMask, OPMask, Teacher-Student heads).

    Every image stays, one without a seen object too: it still trains the detector. The records say
    `partial_masks=True`, and each hidden annotation `has_mask=False`.

    Args:
        seen: a split of `CATEGORY_SPLITS`, or names of categories.
    """

    def __init__(self, *, seen: str | Sequence[str]):
        self.seen = seen if isinstance(seen, str) else tuple(seen)
        if not self.seen:
            raise DatasetError("PartialSupervision without a seen category: use BoxSupervision to hide all masks")

    def __call__(self, records: Iterable[Record], class_names: Sequence[str]) -> list[Record]:
        seen = _indices(self.seen, class_names)
        result = [_hide_masks(record, seen) for record in records]
        logger.info("masks of %d of %d categories are seen: %s", len(seen), len(class_names), _count(result))
        return result


class BoxSupervision(Supervision):
    """Boxes of all categories and no mask at all (BoxInst, SIM). Marks records as `PartialSupervision` does."""

    def __call__(self, records: Iterable[Record], class_names: Sequence[str]) -> list[Record]:
        return [_hide_masks(record, ()) for record in records]


class FewShot(Supervision):
    """`shots` instances of each named category, with box and mask, and the images they are in (CPMask, Table 4.2).

    A shot is an instance, not an image. Which ones are drawn depends on the seed and on what the instances are (image
    id, class name, box), not on the order of the records or of their annotations; of a larger number of shots the
    smaller number is a part. Crowd regions, boxes without area and instances without mask are not drawn.

    What these images have of the same categories and was not drawn, crowd regions too, becomes crowd regions without
    mask that say `ignored=True`: neither objects nor background for the losses that know of such regions (`gt_ignored`
    of `InstanceMapper`), background for the others. Objects of categories that nothing is drawn of are taken away.

    Args:
        shots: instances of each of `categories`.
        categories: a split of `CATEGORY_SPLITS`, or names of categories; all of the data set when left out.
        other_shots: instances of each other category, such as three times `shots` of the base categories.
        seed: of the draw.
        ignore: False takes what was not drawn away as well, so that it is background to all losses.
        file: a list that `ShotList.write` or `tools/select_shots.py` has written, in place of a draw; the seed is that
            of the list, and the numbers and categories here must be its own.
    """

    def __init__(
        self,
        *,
        shots: int,
        categories: str | Sequence[str] | None = None,
        other_shots: int = 0,
        seed: int = 0,
        ignore: bool = True,
        file: str | Path | None = None,
    ):
        if shots < 1 or other_shots < 0:
            raise DatasetError(f"shots={shots} must be 1 or more, and other_shots={other_shots} not negative")
        self.shots = shots
        self.categories = categories if categories is None or isinstance(categories, str) else tuple(categories)
        self.other_shots = other_shots
        self.seed = seed
        self.ignore = ignore
        self.file = file

    def __call__(self, records: Iterable[Record], class_names: Sequence[str]) -> list[Record]:
        records = list(records)
        if self.file:
            places = self._locate(ShotList.read(self.file), records, class_names)
        else:
            places = self._draw(records, class_names)
        drawn: dict[int, set[int]] = {}
        for position, number in places:
            drawn.setdefault(position, set()).add(number)
        asked = [index for index, count in enumerate(self._wanted(class_names)) if count]
        return [self._keep_shots(records[position], drawn[position], asked) for position in sorted(drawn)]

    def choose(self, records: Iterable[Record], class_names: Sequence[str]) -> ShotList:
        """What a call draws or reads, as a list that can be written.

        Args:
            records: see `Supervision`; the annotations need an `id`.
            class_names: see there.

        Raises:
            DatasetError: as a call, or drawn annotations have no id.
        """
        records = list(records)
        if self.file:
            listed = ShotList.read(self.file)
            self._locate(listed, records, class_names)
            return listed
        chosen = []
        for position, number in self._draw(records, class_names):
            record, annotation = records[position], records[position]["annotations"][number]
            if annotation.get("id") is None:
                raise DatasetError(f"image {record['image_id']!r} has annotations without 'id', which no list can name")
            chosen.append(Shot(record["image_id"], annotation["id"], class_names[annotation["category_id"]]))
        return ShotList(self.shots, self.other_shots, self.seed, self._names(class_names), tuple(chosen))

    def _names(self, class_names: Sequence[str]) -> tuple[str, ...]:
        return category_names(class_names if self.categories is None else self.categories, class_names)

    def _wanted(self, class_names: Sequence[str]) -> list[int]:
        """How many instances of each category are asked for."""
        named = self._names(class_names)
        return [self.shots if name in named else self.other_shots for name in class_names]

    def _draw(self, records: list[Record], class_names: Sequence[str]) -> list[tuple[int, int]]:
        """Where the drawn instances are: positions of the record and, in it, of the annotation."""
        wanted = self._wanted(class_names)
        pool: list[list[tuple[str, int, int]]] = [[] for _ in class_names]
        for position, record in enumerate(records):
            for number, annotation in enumerate(record["annotations"]):
                if wanted[annotation["category_id"]] and _is_shot(annotation):
                    name = class_names[annotation["category_id"]]
                    ticket = self._ticket(record["image_id"], name, annotation["bbox"])
                    pool[annotation["category_id"]].append((ticket, position, number))
        short = [
            f"{name} ({len(found)} of {count})"
            for name, found, count in zip(class_names, pool, wanted, strict=True)
            if len(found) < count
        ]
        if short:
            raise DatasetError(
                f"too few instances with mask in {len(records)} images for {', '.join(short)}; ask for fewer shots, "
                "leave these categories out, or use more images"
            )
        return [entry[1:] for found, count in zip(pool, wanted, strict=True) for entry in heapq.nsmallest(count, found)]

    def _ticket(self, image_id: Any, name: str, box: Sequence[float]) -> str:
        text = f"{self.seed}/{image_id}/{name}/{[float(value) for value in box]}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _locate(self, listed: ShotList, records: list[Record], class_names: Sequence[str]) -> list[tuple[int, int]]:
        """Where the instances of the file are, as `_draw` gives it."""
        ours = {
            "shots": self.shots,
            "other_shots": self.other_shots,
            "categories": sorted(self._names(class_names)),
        }
        theirs = {**{key: getattr(listed, key) for key in ours}, "categories": sorted(listed.categories)}
        if other := [f"{key}={theirs[key]}, not {ours[key]}" for key in ours if ours[key] != theirs[key]]:
            raise DatasetError(f"{self.file} was drawn with {'; '.join(other)}")
        places: dict[Shot, list[tuple[int, int]]] = {shot: [] for shot in listed.drawn}
        for position, record in enumerate(records):
            for number, annotation in enumerate(record["annotations"]):
                name = class_names[annotation["category_id"]]
                shot = Shot(record["image_id"], annotation.get("id"), name)
                if shot in places and _is_shot(annotation):
                    places[shot].append((position, number))
        if unknown := [shot for shot, found in places.items() if len(found) != 1]:
            raise DatasetError(
                f"{self.file}: {len(unknown)} of its {len(places)} shots are no instances with mask of these "
                f"{len(records)} images, such as {unknown[0]}; was it drawn from another data set?"
            )
        return [found[0] for found in places.values()]

    def _keep_shots(self, record: Record, numbers: Collection[int], asked: Collection[int]) -> Record:
        annotations = [
            annotation if number in numbers else {**without_mask(annotation), "iscrowd": 1, "ignored": True}
            for number, annotation in enumerate(record["annotations"])
            if number in numbers or (self.ignore and annotation["category_id"] in asked)
        ]
        # Neighbours may be of categories that are not asked for, whose masks must not show.
        return _replace(record, annotations, neighbours=False)


class OnlyCategories(Supervision):
    """The named categories alone, as if no other object had ever been annotated: the base stage of few-shot training.

    Every image stays. Class indices stay too, so the model keeps an output for each category of the data set.

    Args:
        categories: a split of `CATEGORY_SPLITS`, or names of categories.
    """

    def __init__(self, *, categories: str | Sequence[str]):
        self.categories = categories if isinstance(categories, str) else tuple(categories)

    def __call__(self, records: Iterable[Record], class_names: Sequence[str]) -> list[Record]:
        kept = _indices(self.categories, class_names)
        return [
            _replace(record, [one for one in record["annotations"] if one["category_id"] in kept]) for record in records
        ]


def get_supervised_dataset_dicts(names: str | Sequence[str], *, supervision: Supervision, **options: Any) -> list:
    """detectron2's `get_detection_dataset_dicts`, and then what the supervision leaves of the records.

    Args:
        names: one or several registered data sets of the same categories.
        supervision: an instance of a class of this module.
        options: further arguments of `get_detection_dataset_dicts`, such as `filter_empty`.

    Returns:
        New records for `build_detection_train_loader(dataset=...)`.

    Raises:
        DatasetError: the data sets have no class names or no annotations, or see the supervision.
    """
    return supervision(*load_records(names, **options))


def load_records(names: str | Sequence[str], **options: Any) -> tuple[list[Record], Sequence[str]]:
    """The records that a supervision is called with, and the names of their categories.

    Args and errors are those of `get_supervised_dataset_dicts`.
    """
    names = [names] if isinstance(names, str) else list(names)
    records = get_detection_dataset_dicts(names, **options)
    # Read after loading: some data sets set their class names only then.
    class_names = MetadataCatalog.get(names[0]).get("thing_classes")
    if class_names is None:
        raise DatasetError(
            f"supervision by categories needs class names: set MetadataCatalog.get('{names[0]}').thing_classes"
        )
    bare = next((record for record in records if "annotations" not in record), None)
    if bare is not None:
        raise DatasetError(f"{', '.join(names)}: image {bare.get('file_name')} has no 'annotations' to supervise with")
    return records, class_names


def _indices(categories: str | Iterable[str], class_names: Sequence[str]) -> frozenset[int]:
    names = category_names(categories, class_names)
    return frozenset(index for index, name in enumerate(class_names) if name in names)


def _replace(record: Record, annotations: list[Annotation], *, neighbours: bool = True) -> Record:
    """A copy of the record with other annotations.

    What shows the masks of several instances goes: pictures of the whole scene, and, unless all annotations are the
    record's own, the occluders that a file stores with each of them; without `neighbours` these in any case.
    """
    own = record["annotations"]
    untouched = len(own) == len(annotations) and all(map(operator.is_, own, annotations))
    dropped = frozenset() if untouched and neighbours else _NEIGHBOUR_KEYS
    result = {key: value for key, value in record.items() if key not in _MASK_ENTRIES}
    result["annotations"] = [
        {key: value for key, value in annotation.items() if key not in dropped} for annotation in annotations
    ]
    return result


def _hide_masks(record: Record, seen: Collection[int]) -> Record:
    """Masks of the seen classes alone, those apart that were hidden before."""
    result = _replace(
        record,
        [
            annotation
            if annotation["category_id"] in seen and annotation.get("has_mask", True)
            else without_mask(annotation)
            for annotation in record["annotations"]
        ],
    )
    # On every record, so that all images of a batch have the same fields.
    result["partial_masks"] = True
    return result


def _is_shot(annotation: Annotation) -> bool:
    if annotation.get("iscrowd", 0) or not annotation.get("has_mask", True) or not annotation.get("segmentation"):
        return False
    _, _, width, height = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return width > 0 and height > 0


def _count(records: list[Record]) -> str:
    annotations = [annotation for record in records for annotation in record["annotations"]]
    seen = sum(annotation.get("has_mask", True) for annotation in annotations)
    return f"{seen} of {len(annotations)} instances in {len(records)} images"
