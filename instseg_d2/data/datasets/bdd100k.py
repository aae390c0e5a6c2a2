"""BDD100K by name: segmentation tracking (MOTS), box tracking (MOT), detection and instance segmentation.

All four come as Scalabel's json, the two with masks as bitmasks too; every form becomes records of single frames.
Records of videos have `video_id`, `frame_index` (from 0 on), `video_length` and `video_name`; those of single images
have none of them. Frames of a video follow each other in order.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util
from tqdm import tqdm

from ..bdd100k_categories import BDD100K_CLASSES, match_category
from ..errors import DatasetError
from ..instance_maps import read_bitmask, read_scalabel
from ..run_lengths import run_lengths
from .coco import check_image_root
from .splits import OnDisk, Records, Split
from .validation import check_segmentation
from .video_catalog import Categories, VideoDataset, numbered, register_videos

logger = logging.getLogger(__name__)

MOTS_EVALUATOR = "bdd100k_mots"

# Height and width of every image of the release.
_FRAME_SIZE = (720, 1280)
# Of the detection labels, and of no other task.
_LEFT_OUT = frozenset({"traffic light", "traffic sign"})

Frame = Mapping[str, Any]


def _box(label: Frame, where: str) -> list[float]:
    """`box2d` as xyxy; its second corner is the last pixel that belongs to the object."""
    box = label["box2d"]
    corners = [box.get(key) for key in ("x1", "y1", "x2", "y2")] if isinstance(box, dict) else [None]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in corners):
        raise DatasetError(f"{where}: 'box2d' is {box}; it has the numbers x1, y1, x2 and y2")
    x1, y1, x2, y2 = map(float, corners)
    return [x1, y1, x2 + 1, y2 + 1]


def _shape(label: Frame, height_width: tuple[int, int], where: str) -> dict[str, Any] | None:
    """Mask and box of a label, or the box alone; None for a mask without a pixel."""
    mask = label.get("rle")
    if mask is not None:
        for _, fault in check_segmentation(mask, list(height_width), where, "rle"):
            raise DatasetError(
                f"{fault}; a mask is the run lengths of a frame of {height_width[0]} x {height_width[1]}"
            )
        mask = run_lengths(mask, *height_width)
        if not mask_util.area(mask):
            return None
        return {"bbox": mask_util.toBbox(mask).tolist(), "bbox_mode": BoxMode.XYWH_ABS, "segmentation": mask}
    if label.get("poly2d") is not None:
        raise DatasetError(f"{where}: it has a polygon alone; take the labels of the folder 'rles' or 'bitmasks'")
    if label.get("box2d") is None:
        raise DatasetError(f"{where}: it has neither 'rle' nor 'box2d'")
    return {"bbox": _box(label, where), "bbox_mode": BoxMode.XYXY_ABS}


def _annotations(
    frame: Frame, height_width: tuple[int, int], classes: Sequence[str], identities: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Annotations of one frame.

    Args:
        frame: of Scalabel's json.
        height_width: of the frame, pixels.
        classes: names.
        identities: of the video: numbers of the labels' ids, extended here.
    """
    seen = set()
    for position, label in enumerate(frame.get("labels") or ()):
        where = f"{frame['source']}: label {label.get('id')!r} (number {position}) of frame {frame['name']}"
        category = label.get("category")
        matched = match_category(category, classes)
        if matched is None and category in _LEFT_OUT:
            continue
        if matched is None:
            raise DatasetError(f"{where}: category {category!r} is none of {', '.join(classes)}")
        key = str(label["id"]) if label.get("id") is not None else f"number {position}"
        if key in seen:
            raise DatasetError(f"{where}: the id occurs twice in the frame")
        seen.add(key)
        shape = _shape(label, height_width, where)
        if shape is None:
            continue
        attributes = label.get("attributes") or {}
        hidden = matched[1] or any(attributes.get(flag) for flag in ("crowd", "ignored", "ignore"))
        yield {
            "id": label.get("id"),
            "instance_id": identities.setdefault(key, len(identities) + 1),
            "category_id": matched[0],
            "iscrowd": int(hidden),
            **shape,
        }


def _height_width(frame: Frame) -> tuple[int, int] | None:
    """As the frame, or one of its masks, has it."""
    size = frame.get("size") or {}
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    masks = (label.get("rle") or {} for label in frame.get("labels") or ())
    return next((tuple(mask["size"]) for mask in masks if len(mask.get("size") or ()) == 2), None)


def _image_names(folder: Path) -> dict[str, str]:
    """Names of the images of a folder, by their stem."""
    return {path.stem: path.name for path in folder.iterdir()} if folder.is_dir() else {}


def _bitmask_frames(folder: Path, image_root: Path, classes: Sequence[str]) -> Iterator[Frame]:
    """Bitmasks as frames of Scalabel's json."""
    files = sorted(folder.rglob("*.png"))
    images: dict[Path, dict[str, str]] = {}
    for index, file in enumerate(tqdm(files, desc="bitmasks", unit="frame", disable=None, leave=False)):
        place = file.parent.relative_to(folder)
        names = images.setdefault(place, _image_names(image_root / place))
        if file.stem not in names:
            raise DatasetError(f"bitmask {file} has no image {image_root / place / file.stem}.*")
        objects = read_bitmask(file)
        wrong = objects.classes[(objects.classes < 0) | (objects.classes >= len(classes))]
        if len(wrong):
            raise DatasetError(f"{file}: category {wrong[0] + 1} (channel R) is not between 1 and {len(classes)}")
        height, width = objects.index.shape
        yield {
            "name": names[file.stem],
            "videoName": None if place == Path() else place.as_posix(),
            "frameIndex": index,
            "size": {"height": height, "width": width},
            "labels": objects.to_labels(classes),
        }


def _read_frames(labels: Path, image_root: Path, classes: Sequence[str]) -> list[Frame]:
    """All frames, each with the path of its file as `source`."""
    if not labels.exists():
        raise DatasetError(f"no labels {labels}: neither a json file nor a folder of them or of bitmasks")
    files = sorted(labels.glob("*.json")) if labels.is_dir() else [labels]
    if files:
        frames = [{**frame, "source": str(file)} for file in files for frame in read_scalabel(file)]
    else:
        frames = [{**frame, "source": str(labels)} for frame in _bitmask_frames(labels, image_root, classes)]
    if not frames:
        raise DatasetError(f"{labels} has no frames: no json file with some, and no bitmasks (*.png)")
    return frames


def _place(frame: Frame) -> tuple[str, int, str]:
    """What puts the frames of all videos into order."""
    return frame.get("videoName") or "", frame.get("frameIndex") or 0, frame["name"]


def read_bdd100k(
    labels: str | os.PathLike, image_root: str | os.PathLike, classes: Sequence[str] = BDD100K_CLASSES
) -> tuple[Records, Categories]:
    """Read and check labels of BDD100K.

    Frames with `videoName` are of videos, and lie in a folder of that name; others are single images. Masks come from
    `rle`; boxes are theirs, or `box2d` where a label has no mask. Crowds, ignored labels and distractors (`other
    person`, `other vehicle`, `trailer`) have `iscrowd` 1, so that no loss sees them. `instance_id` numbers the objects
    of a video, or of an image, from 1 on; `id` is the label's.

    Args:
        labels: a json of Scalabel's form, a folder of such files, or a folder of bitmasks, which is slower to read.
        image_root: the folder of the images.
        classes: names in the order of class indices, and of the numbers in bitmasks.

    Returns:
        Records, one a frame, videos in the order of their names, numbered from 1 on; and their classes.

    Raises:
        DatasetError: labels are missing or broken, with the frame and the label; or the first image is not there.
    """
    labels, image_root = Path(labels), Path(image_root)
    frames = sorted(_read_frames(labels, image_root, classes), key=_place)
    records = []
    for video, shown in groupby(frames, key=lambda frame: frame.get("videoName")):
        of_video = _video_records(list(shown), os.path.join(image_root, video or ""), classes)
        if video is not None:
            number = records[-1].get("video_id", 0) + 1 if records else 1
            of_video = [
                {**record, "video_id": number, "frame_index": at, "video_length": len(of_video), "video_name": video}
                for at, record in enumerate(of_video)
            ]
        records += of_video
    for number, record in enumerate(records, start=1):
        record["image_id"] = number
    first = os.path.relpath(records[0]["file_name"], image_root)
    check_image_root(first, f"frame {frames[0]['name']}", str(labels), str(image_root))
    return records, numbered(classes)


def _video_records(frames: Sequence[Frame], folder: str, classes: Sequence[str]) -> Records:
    """Records of the frames of one video, or of single images, without any numbers of theirs."""
    records, identities = [], {}
    size_of_video = next(filter(None, map(_height_width, frames)), None) if frames[0].get("videoName") else None
    for frame in frames:
        height, width = _height_width(frame) or size_of_video or _FRAME_SIZE
        known = {} if frame.get("videoName") is None else identities
        records.append(
            {
                "file_name": os.path.join(folder, frame["name"]),
                "height": height,
                "width": width,
                "annotations": list(_annotations(frame, (height, width), classes, known)),
            }
        )
    return records


def load_bdd100k(labels: str, image_root: str, name: str) -> Records:
    """Records of a built-in set; see `read_bdd100k`. Where the json is missing, they are from the bitmasks."""
    metadata = MetadataCatalog.get(name)
    if not os.path.exists(labels):
        logger.info("no %s; reading bitmasks", labels)
        labels = metadata.bitmask_root
    return read_bdd100k(labels, image_root, metadata.thing_classes)[0]


def register_bdd100k(
    name: str,
    labels: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    classes: Sequence[str] = BDD100K_CLASSES,
    **metadata: Any,
) -> VideoDataset:
    """Make labels in one of BDD100K's forms known to detectron2 under a name, after reading and checking them.

    Registering the same name with the same paths again replaces it.

    Args:
        name: for `DatasetCatalog.get(name)` and configs.
        labels: see `read_bdd100k`.
        image_root: see `read_bdd100k`.
        classes: see `read_bdd100k`.
        metadata: further entries for `MetadataCatalog`.

    Raises:
        DatasetError: see `read_bdd100k`; also when the name is taken by other paths.
    """
    labels, image_root = os.fspath(labels), os.fspath(image_root)
    read = partial(read_bdd100k, labels, image_root, tuple(classes))
    return register_videos(name, labels, image_root, read, **{"evaluator_type": MOTS_EVALUATOR, **metadata})


class MasksOnDisk(OnDisk):
    """A set whose masks come as json and as bitmasks; one of the two, `json_file` or `bitmask_root`, must be there."""

    def prepare(self, name: str, root: str) -> None:
        """Raise one error with the expected tree unless all that is needed is there."""
        if not all(Path(root, path).exists() for path in (self.paths["bitmask_root"], self.image_root)):
            super().prepare(name, root)


_TREE = """\
  bdd100k/
    images/{images}
    labels/{labels}"""


def bdd100k_splits() -> dict[str, Split]:
    """The published sets by name."""
    return {f"bdd100k_{task}_{split}": one for split in ("train", "val") for task, one in _splits_of(split).items()}


def _splits_of(split: str) -> dict[str, Split]:
    def on_disk(images: str, labels: str, evaluator_type: str, bitmasks: str = "") -> Split:
        settings = {
            "json_file": f"bdd100k/labels/{labels}",
            "image_root": f"bdd100k/images/{images}",
            "classes": BDD100K_CLASSES,
            "evaluator_type": evaluator_type,
            "read": load_bdd100k,
            "extra": {"thing_dataset_id_to_contiguous_id": numbered(BDD100K_CLASSES).indices},
        }
        shown = f"{labels}    (or {bitmasks})" if bitmasks else labels
        tree = _TREE.format(images=images, labels=shown)
        if not bitmasks:
            return OnDisk(tree=tree, **settings)
        return MasksOnDisk(tree=tree, paths={"bitmask_root": f"bdd100k/labels/{bitmasks}"}, **settings)

    return {
        "det": on_disk(f"100k/{split}", f"det_20/det_{split}.json", "bdd100k_det"),
        "mot": on_disk(f"track/{split}", f"box_track_20/{split}", "bdd100k_mot"),
        "ins_seg": on_disk(
            f"10k/{split}", f"ins_seg/rles/ins_seg_{split}.json", "bdd100k_ins_seg", f"ins_seg/bitmasks/{split}"
        ),
        "seg_track": on_disk(
            f"seg_track_20/{split}",
            f"seg_track_20/rles/{split}",
            MOTS_EVALUATOR,
            f"seg_track_20/bitmasks/{split}",
        ),
    }
