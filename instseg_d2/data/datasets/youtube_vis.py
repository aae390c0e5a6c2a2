"""YouTube-VIS by name: a json of tracks over videos, read and checked at once, then served frame by frame.

A record is one frame in detectron2's format, with `video_id`, `frame_index` (from 0 on), `video_length` and
`video_name`. Frames of a video follow each other in order.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from ..errors import DatasetError
from ..run_lengths import run_lengths
from .coco import check_image_root, raise_fatal, read_coco_json
from .splits import OnDisk, Records, Split
from .video_catalog import Categories, VideoDataset, numbered, register_videos
from .video_validation import validate_videos

# In the order of the category ids of the files.
YTVIS_2019_CLASSES = (
    *("person", "giant_panda", "lizard", "parrot", "skateboard", "sedan", "ape", "dog", "snake", "monkey"),
    *("hand", "rabbit", "duck", "cat", "cow", "fish", "train", "horse", "turtle", "bear"),
    *("motorbike", "giraffe", "leopard", "fox", "deer", "owl", "surfboard", "airplane", "truck", "zebra"),
    *("tiger", "elephant", "snowboard", "boat", "shark", "mouse", "frog", "eagle", "earless_seal", "tennis_racket"),
)
YTVIS_2021_CLASSES = (
    *("airplane", "bear", "bird", "boat", "car", "cat", "cow", "deer", "dog", "duck"),
    *("earless_seal", "elephant", "fish", "flying_disc", "fox", "frog", "giant_panda", "giraffe", "horse", "leopard"),
    *("lizard", "monkey", "motorbike", "mouse", "parrot", "person", "rabbit", "shark", "skateboard", "snake"),
    *("snowboard", "squirrel", "surfboard", "tennis_racket", "tiger", "train", "truck", "turtle", "whale", "zebra"),
)
YOUTUBE_VIS_EVALUATOR = "youtube_vis"


def _categories(listed: Sequence[dict], classes: Sequence[str] | None, json_file: str) -> Categories:
    """Match the file's categories with the classes by name; without classes, those of the file in the order of ids.

    Raises:
        DatasetError: the file has other names than `classes`.
    """
    names = {category["id"]: category["name"] for category in listed}
    classes = [names[key] for key in sorted(names)] if classes is None else list(classes)
    if set(names.values()) != set(classes):
        raise DatasetError(
            f"{json_file}: the categories of the set are {', '.join(classes)}, but the file has "
            f"{', '.join(names[key] for key in sorted(names))}; register it under a name of its own with "
            "register_youtube_vis"
        )
    return Categories(tuple(classes), {key: classes.index(name) for key, name in names.items()})


def _mask(mask: Any, height: int, width: int) -> Any:
    """Polygons as they are, run lengths compressed; None for what has no pixel."""
    if not isinstance(mask, dict):
        return mask or None
    compressed = run_lengths(mask, height, width)
    return compressed if mask_util.area(compressed) else None


def _at(track: dict, key: str, frame: int) -> Any:
    entries = track.get(key)
    return entries[frame] if entries else None


def _annotation(track: dict, frame: int, video: dict) -> dict[str, Any] | None:
    """The instance in one frame; None where it has no mask. Its category is still the file's."""
    height, width = video["height"], video["width"]
    mask = _mask(track["segmentations"][frame], height, width)
    if mask is None:
        return None
    annotation = {
        "id": track["id"],
        "category_id": track["category_id"],
        "iscrowd": int(bool(track.get("iscrowd"))),
        "bbox": _at(track, "bboxes", frame) or mask_util.toBbox(run_lengths(mask, height, width)).tolist(),
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": mask,
    }
    further = {
        "amodal_segmentation": _mask(_at(track, "amodal_segmentations", frame), height, width),
        "covered": _at(track, "covered", frame),
        "depth": track.get("depth"),
    }
    return annotation | {key: value for key, value in further.items() if value is not None}


def _frames(video: dict, tracks: Sequence[dict] | None, indices: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Records of one video without `image_id`; `tracks` None leaves out the annotations."""
    names = video["file_names"]
    for frame, file_name in enumerate(names):
        record = {
            "file_name": file_name,
            "height": video["height"],
            "width": video["width"],
            "video_id": video["id"],
            "frame_index": frame,
            "video_length": len(names),
            "video_name": video.get("name") or os.path.dirname(names[0]) or f"video_{video['id']}",
        }
        if tracks is not None:
            record["annotations"] = []
            for number, track in enumerate(tracks, start=1):
                annotation = _annotation(track, frame, video)
                if annotation is not None:
                    annotation.update(instance_id=number, category_id=indices[track["category_id"]])
                    record["annotations"].append(annotation)
        yield record


def read_youtube_vis(
    json_file: str | os.PathLike, image_root: str | os.PathLike, classes: Sequence[str] | None = None
) -> tuple[Records, Categories]:
    """Read and check a file of the YouTube-VIS form, of 2019, 2021 or any other.

    An instance is in a frame where it has a mask (polygons, or run lengths in either form) with a pixel; the entry is
    null elsewhere. `instance_id` numbers the tracks of a video from 1 on in the order of the file, whatever ids they
    have; `id` is that of the track. Beyond the format, `amodal_segmentations`, `covered` and `depth` of a track are
    kept. Without `annotations` in the file, as in the published validation sets, the records have none either.

    Args:
        json_file: the tracks.
        image_root: the folder that `file_names` are relative to.
        classes: category names in the order of class indices; the file's are matched by name. None takes its own, in
            the order of their ids.

    Returns:
        Records, one a frame; and their classes.

    Raises:
        DatasetError: the file is missing or broken, with the ids of video and annotation; its categories are not
            `classes`; or the first frame is not there.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    content = read_coco_json(json_file)
    raise_fatal(validate_videos(content), json_file)
    first = content["videos"][0]
    check_image_root(first["file_names"][0], f"frame 0 of video {first['id']}", json_file, image_root)
    categories = _categories(content["categories"], classes, json_file)
    tracks = defaultdict(list)
    for track in content.get("annotations") or ():
        tracks[track["video_id"]].append(track)
    withheld = content.get("annotations") is None
    records = []
    for video in content["videos"]:
        for record in _frames(video, None if withheld else tracks[video["id"]], categories.indices):
            record.update(image_id=len(records) + 1, file_name=os.path.join(image_root, record["file_name"]))
            records.append(record)
    return records, categories


def load_youtube_vis(json_file: str, image_root: str, name: str) -> Records:
    """Records of a built-in set; see `read_youtube_vis`.

    Raises:
        DatasetError: also when the ids of the categories are not those that the catalog promises.
    """
    metadata = MetadataCatalog.get(name)
    records, categories = read_youtube_vis(json_file, image_root, metadata.thing_classes)
    if categories.indices != metadata.thing_dataset_id_to_contiguous_id:
        raise DatasetError(
            f"{json_file}: the category ids of '{name}' are 1 to {len(categories.names)} in the order "
            f"{', '.join(metadata.thing_classes)}; register it under a name of its own with register_youtube_vis"
        )
    return records


def register_youtube_vis(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    thing_classes: Sequence[str] | None = None,
    **metadata: Any,
) -> VideoDataset:
    """Make a YouTube-VIS json known to detectron2 under a name, after reading and checking it.

    Registering the same name with the same paths again replaces it.

    Args:
        name: for `DatasetCatalog.get(name)` and configs.
        json_file: see `read_youtube_vis`.
        image_root: see `read_youtube_vis`.
        thing_classes: category names in the order of class indices; by default the file's in the order of their ids.
        metadata: further entries for `MetadataCatalog`.

    Raises:
        DatasetError: see `read_youtube_vis`; also when the name is taken by other paths.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    return register_videos(
        name,
        json_file,
        image_root,
        partial(read_youtube_vis, json_file, image_root, thing_classes),
        evaluator_type=YOUTUBE_VIS_EVALUATOR,
        **metadata,
    )


_YTVIS_TREE = """\
  ytvis_{year}/
    train.json, valid.json, test.json      (the instances.json of each archive)
    train/JPEGImages/<video>/*.jpg
    valid/JPEGImages/<video>/*.jpg
    test/JPEGImages/<video>/*.jpg"""


def youtube_vis_splits() -> dict[str, Split]:
    """The published sets by name; annotations are published for training alone."""
    return {
        f"ytvis_{year}_{split}": OnDisk(
            json_file=f"ytvis_{year}/{folder}.json",
            image_root=f"ytvis_{year}/{folder}/JPEGImages",
            classes=classes,
            tree=_YTVIS_TREE.format(year=year),
            evaluator_type=YOUTUBE_VIS_EVALUATOR,
            read=load_youtube_vis,
            extra={"thing_dataset_id_to_contiguous_id": numbered(classes).indices},
        )
        for year, classes in ((2019, YTVIS_2019_CLASSES), (2021, YTVIS_2021_CLASSES))
        for split, folder in (("train", "train"), ("val", "valid"), ("test", "test"))
    }
