"""Sets of videos in detectron2's catalogs, whatever their files look like."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco import is_taken
from .splits import Records


@dataclass(frozen=True)
class Categories:
    """What the classes of a set are called.

    Attributes:
        names: in the order of class indices.
        indices: the class index of every category id of the file.
    """

    names: tuple[str, ...]
    indices: dict[int, int]


def numbered(classes: Sequence[str]) -> Categories:
    """Categories whose ids are 1, 2, ... in the order of the classes."""
    return Categories(tuple(classes), {index + 1: index for index in range(len(classes))})


@dataclass(frozen=True)
class VideoDataset:
    """A registered set of videos, or of single images in the files of one.

    Attributes:
        name: its name in detectron2's catalogs.
        json_file: its annotations.
        image_root: the folder of its frames.
        thing_classes: category names in the order of the model's class indices.
        num_videos: number of videos; single images are none.
        num_frames: number of records.
    """

    name: str
    json_file: str
    image_root: str
    thing_classes: tuple[str, ...]
    num_videos: int
    num_frames: int

    @property
    def num_classes(self) -> int:
        """What `num_classes` of a model should be."""
        return len(self.thing_classes)


def register_videos(
    name: str,
    json_file: str,
    image_root: str,
    read: Callable[[], tuple[Records, Categories]],
    **metadata: Any,
) -> VideoDataset:
    """Read a set once, for its errors and its size, and put it into the catalogs; a set of the same paths is replaced.

    Args:
        name: for `DatasetCatalog.get(name)` and configs.
        json_file: the annotations.
        image_root: the folder of the frames.
        read: gives the records and their classes.
        metadata: further entries for `MetadataCatalog`.

    Raises:
        DatasetError: what `read` raises; or the name is taken by other paths.
    """
    replace = is_taken(name, json_file, image_root)
    records, categories = read()
    if replace:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: read()[0])
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        thing_classes=list(categories.names),
        thing_dataset_id_to_contiguous_id=categories.indices,
        **metadata,
    )
    videos = {record["video_id"] for record in records if "video_id" in record}
    return VideoDataset(name, json_file, image_root, categories.names, len(videos), len(records))
