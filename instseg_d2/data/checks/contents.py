"""What an annotation file holds, apart from its form: pictures, and regions in them."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..datasets.validation import (
    Finding,
    check_annotation,
    check_image,
    check_segmentation,
    images_by_id,
    is_integer,
    is_sound,
    list_of,
    place,
)


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video.

    Attributes:
        key: unlike that of any other picture.
        where: how it is called in a message.
        file_name: relative to the image folder.
        height_width: as the json states it, pixels.
    """

    key: Hashable
    where: str
    file_name: str
    height_width: tuple[int, int]


@dataclass(frozen=True)
class Region:
    """An instance in one picture.

    Attributes:
        picture: key of the picture.
        where: how it is called in a message.
        height_width: of the picture, pixels.
        category: id.
        segmentation: polygons, a run-length mask, or None.
        box: [x, y, width, height] in pixels, or None.
        area: as the json states it, square pixels, or None.
        is_crowd: a region of many instances.
        track: id of the video instance that it is a part of; None in images.
    """

    picture: Hashable
    where: str
    height_width: tuple[int, int]
    category: int
    segmentation: list | dict | None
    box: list[float] | None
    area: float | None
    is_crowd: bool = False
    track: int | None = None


@dataclass(frozen=True)
class Contents:
    """The sound entries of a file: what has the right form can be looked at more closely.

    Attributes:
        pictures: images, or frames of all videos.
        regions: in the order of the file.
        categories: names by id.
        videos: how many; None in a set of images.
        left_out: how many images or videos a limit has left out.
    """

    pictures: list[Picture] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)
    videos: int | None = None
    left_out: int = 0


def category_names(content: Any) -> dict[int, str]:
    """Names of the usable categories by id."""
    entries = [entry for entry in list_of(content, "categories") if isinstance(entry, dict)]
    return {entry["id"]: str(entry.get("name")) for entry in entries if is_integer(entry.get("id"))}


def number(value: Any) -> float | None:
    """The value if it is a number, else None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _sound_images(content: Any) -> dict[int | str, dict]:
    listed = enumerate(list_of(content, "images"))
    return images_by_id([image for at, image in listed if is_sound(check_image(image, at))])


def coco_contents(content: Any, limit: int | None = None) -> Contents:
    """Pictures and regions of a COCO file; `limit` keeps those of the first images only."""
    images = _sound_images(content)
    kept = dict(list(images.items())[:limit])
    names = category_names(content)
    pictures = [
        Picture(key, f"image {key!r}", image["file_name"], (image["height"], image["width"]))
        for key, image in kept.items()
    ]
    regions = []
    for at, annotation in enumerate(list_of(content, "annotations")):
        if not is_sound(check_annotation(annotation, at, images, names)) or annotation["image_id"] not in kept:
            continue
        image = kept[annotation["image_id"]]
        regions.append(
            Region(
                picture=annotation["image_id"],
                where=place(annotation),
                height_width=(image["height"], image["width"]),
                category=annotation["category_id"],
                segmentation=annotation.get("segmentation") or None,
                box=annotation["bbox"],
                area=number(annotation.get("area")),
                is_crowd=bool(annotation.get("iscrowd")),
            )
        )
    return Contents(pictures, regions, names, left_out=len(images) - len(kept))


def check_further_masks(content: Any) -> Iterator[Finding]:
    """The form of the masks that annotations may have beside `segmentation`: amodal and visible ones."""
    images = _sound_images(content)
    for annotation in list_of(content, "annotations"):
        key = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(key, int | str) or key not in images:
            continue
        size = [images[key]["height"], images[key]["width"]]
        for name in ("amodal_segmentation", "visible_segmentation"):
            if annotation.get(name):
                yield from check_segmentation(annotation[name], size, f"annotation {annotation.get('id')!r}", name)
