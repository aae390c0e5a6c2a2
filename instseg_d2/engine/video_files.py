"""Files of tracks, written frame by frame: YouTube-VIS json, bitmasks and json as BDD100K has them, and a video."""

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode, Instances
from pycocotools import mask as mask_util

from instseg_d2.data.clips import Clip
from instseg_d2.data.errors import DatasetError
from instseg_d2.data.instance_maps import MAX_ID, paint
from instseg_d2.data.run_lengths import encode_mask
from instseg_d2.evaluation.video_submissions import MOST_INSTANCES, mots_rle_frame, write_mots_bitmask
from instseg_d2.files import replacing
from instseg_d2.visualization import draw_instances

from .coco_file import Categories


class AnnotatedVideo:
    """A video of the frames with their tracks, each in the colour of its id.

    Args:
        path: the mp4 to write.
        fps: frames per second.
        class_names: text of the labels; class indices when left out.
    """

    def __init__(self, path: Path, fps: float, class_names: list[str] | None = None) -> None:
        self.path = path
        self._fps = fps
        self._names = class_names
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray, instances: Instances) -> None:
        """Draw the next frame (H, W, 3) uint8 BGR, of the size of the first one.

        Raises:
            OSError: the file cannot be written.
        """
        self.write(draw_instances(frame, instances, self._names, score_threshold=0.0))

    def write(self, picture: np.ndarray) -> None:
        """Write the next frame as it is; errors as of `add`."""
        if self._writer is None:
            size = picture.shape[1], picture.shape[0]
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), self._fps, size)
            if not self._writer.isOpened():
                raise OSError(f"cannot write video {self.path}")
        self._writer.write(picture)

    def close(self) -> None:
        """Finish the file; without a frame there is none."""
        if self._writer is not None:
            self._writer.release()


class _Track:
    """What memory holds of a track: where its frames are in the file of masks, 24 bytes for each of them."""

    def __init__(self) -> None:
        self.frames, self.starts, self.lengths = array("q"), array("q"), array("q")
        self.votes: Counter[int] = Counter()
        self.scores: Counter[int] = Counter()

    @property
    def category(self) -> int:
        """The class of most of its frames; of equally many, the one with the higher sum of scores."""
        return max(self.votes, key=lambda category: (self.votes[category], self.scores[category], -category))


class TrackFile:
    """Tracks of one video in the format of YouTube-VIS, written at the end from what was collected on disk.

    The file is a data set of one video (`videos`, `categories`, `annotations`). Each track is an annotation with
    `category_id` (that of most of its frames), `score` (their mean), `segmentations` (compressed run lengths), `bboxes`
    (xywh) and `areas` of all frames, null where the track is not seen, and the track's id as `instance_id`. A server
    takes the annotations as its list of results.

    Meanwhile masks lie in a temporary file beside it; memory holds some 24 bytes for each mask.

    Args:
        path: the json to write.
        clip: the video.
        metadata: of the data set that the model was trained for; gives categories.
        video_id: of the video in the file.
    """

    def __init__(self, path: Path, clip: Clip, metadata: Metadata | None = None, *, video_id: int = 1) -> None:
        self.path = path
        self._clip = clip
        self._categories = Categories(metadata)
        self._video_id = video_id
        self._size = (0, 0)
        self._length = self._end = 0
        self._tracks: dict[int, _Track] = {}
        self._masks = tempfile.TemporaryFile(dir=path.parent)

    def __len__(self) -> int:
        """Number of tracks."""
        return len(self._tracks)

    def add(self, frame: np.ndarray, instances: Instances) -> None:
        """Take the next frame (H, W, 3).

        Args:
            frame: of the size of the first one.
            instances: `pred_boxes`, `pred_classes`, `scores`, `pred_ids` from 1 on, and, unless the model has no masks,
                `pred_masks` (N, H, W) bool. Those without a pixel are left out.
        """
        self._size = frame.shape[:2]
        boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
        masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
        for index, identity in enumerate(instances.pred_ids.tolist()):
            if masks is not None and not masks[index].any():
                continue
            track = self._tracks.setdefault(identity, _Track())
            record = {"bbox": [round(value, 2) for value in boxes[index]]}
            if masks is not None:
                record["rle"] = encode_mask(masks[index])
            encoded = json.dumps(record).encode()
            self._masks.write(encoded)
            for column, value in zip(
                (track.frames, track.starts, track.lengths), (self._length, self._end, len(encoded)), strict=True
            ):
                column.append(value)
            self._end += len(encoded)
            category = int(instances.pred_classes[index])
            track.votes[category] += 1
            track.scores[category] += float(instances.scores[index])
        self._length += 1

    def close(self) -> None:
        """Write the json of the frames so far, one track at a time; without a frame there is none.

        Raises:
            OSError: the disk is full or the place cannot be written to.
        """
        if self._length:
            with replacing(self.path) as partial, partial.open("w", encoding="utf-8") as file:
                for text in self._content():
                    file.write(text)
        self._masks.close()

    def _content(self) -> Iterator[str]:
        height, width = self._size
        video = {"id": self._video_id, "name": self._clip.name, "width": width, "height": height}
        video["length"] = self._length
        video["file_names"] = [self._clip.file_name(number) for number in range(self._length)]
        yield '{"videos": ' + json.dumps([video]) + ', "annotations": ['
        for number, identity in enumerate(sorted(self._tracks)):
            yield (", " if number else "") + json.dumps(self._annotation(number + 1, identity))
        used = sorted({track.category for track in self._tracks.values()})
        yield '], "categories": ' + json.dumps([self._categories.record(index) for index in used]) + "}"

    def _annotation(self, number: int, identity: int) -> dict[str, Any]:
        track = self._tracks[identity]
        masks, boxes, areas = ([None] * self._length for _ in range(3))
        for frame, start, length in zip(track.frames, track.starts, track.lengths, strict=True):
            self._masks.seek(start)
            record = json.loads(self._masks.read(length))
            masks[frame], boxes[frame] = record.get("rle"), record["bbox"]
            areas[frame] = (
                int(mask_util.area(record["rle"])) if "rle" in record else record["bbox"][2] * record["bbox"][3]
            )
        return {
            "id": number,
            "video_id": self._video_id,
            "category_id": self._categories.record(track.category)["id"],
            "score": track.scores.total() / len(track.frames),
            "iscrowd": 0,
            "height": self._size[0],
            "width": self._size[1],
            "length": self._length,
            "segmentations": masks,
            "bboxes": boxes,
            "areas": areas,
            "instance_id": identity,
        }


class MotsFolder:
    """Tracks of one video as BDD100K's MOTS has them: a bitmask for each frame, and one json of run lengths.

    The files are `bitmasks/<video>/<video>-0000001.png` and on, and `rles/<video>.json`. One pixel belongs to one
    object: where masks overlap, to that of the highest score.

    Args:
        folder: for all videos.
        name: of the video.
        metadata: of the data set that the model was trained for; gives categories.
    """

    def __init__(self, folder: Path, name: str, metadata: Metadata | None = None) -> None:
        self.path = folder / "rles" / f"{name}.json"
        self._bitmasks = folder / "bitmasks"
        self._name = name
        self._categories = Categories(metadata)
        self._length = 0
        self._resources = ExitStack()
        self._file: TextIO | None = None

    def _open(self) -> TextIO:
        """The json, which replaces an older one when all is written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._resources.enter_context(replacing(self.path))
        file = self._resources.enter_context(partial.open("w", encoding="utf-8"))
        file.write('{"frames": [')
        return file

    def add(self, frame: np.ndarray, instances: Instances) -> None:
        """Write the tracks of the next frame: `pred_classes`, `scores`, `pred_ids` from 1 on, `pred_masks`.

        Raises:
            DatasetError: no masks, or more tracks than a bitmask has numbers for.
            OSError: a file cannot be written.
        """
        if not instances.has("pred_masks"):
            raise DatasetError(f"MOTS of '{self._name}' needs masks, and the model predicts boxes only")
        fields = (instances.pred_masks, instances.scores, instances.pred_ids, instances.pred_classes)
        masks, scores, ids, classes = (field.numpy() for field in fields)
        if ids.max(initial=0) > MAX_ID:
            raise DatasetError(
                f"frame {self._length} of '{self._name}' has the track {ids.max()}, and a bitmask holds ids up to "
                f"{MAX_ID}: cut the video into parts"
            )
        self._file = self._file or self._open()
        painted = paint(masks, scores, ids, classes, MOST_INSTANCES)
        write_mots_bitmask(self._bitmasks, self._name, self._length, painted)
        names = self._categories.names(int(classes.max(initial=-1)) + 1)
        labels = painted.to_labels(names, dict(zip(ids.tolist(), scores.tolist(), strict=True)))
        record = mots_rle_frame(self._name, self._length, labels, frame.shape[:2])
        self._file.write((",\n" if self._length else "\n") + json.dumps(record))
        self._length += 1

    def close(self) -> None:
        """Finish the json of the frames so far; without a frame there is none."""
        if self._file is not None:
            self._file.write("\n]}\n")
        self._resources.close()
