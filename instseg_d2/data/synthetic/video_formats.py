"""A generated video as the files of public video data sets: YouTube-VIS, BDD100K MOTS and YouTube-VOI; flow; layers.

An object is annotated in a frame under the same rule as in OccShapes (`annotated`): enough of it must be visible.
"""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_util

from ..errors import DatasetError
from .folders import encode_png
from .layouts import annotated
from .outlines import CATEGORIES
from .video import Video

YTVIS_FILE = "annotations.json"
VOI_FILE = "tracks.json"
VOI_MASKS = ("full_mask", "occ_mask", "occ_mask_full", "remain_mask")

# From this hidden share on, an object counts as occluded: in the flags of BDD100K, and as a track of YouTube-VOI.
OCCLUDED = 0.05


def video_name(index: int) -> str:
    """Folder name of video number `index`."""
    return f"video_{index:04d}"


def shown(video: Video, *, amodal: bool = False) -> np.ndarray:
    """(T, N) bool: which objects are annotated in which frames; with `amodal`, which would be if nothing hid them."""
    result = np.zeros(video.covered.shape, dtype=bool)
    for frame in range(len(result)):
        rendering = video.rendering(frame)
        result[frame, annotated(replace(rendering, visible=rendering.amodal) if amodal else rendering)] = True
    return result


def run_lengths(mask: np.ndarray) -> dict:
    """Uncompressed RLE of COCO, `size` and `counts` column by column, of a mask (H, W) bool."""
    flat = mask.ravel(order="F")
    ends = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    # Counts start with zeros, of which there may be none.
    counts = ([0] if flat[0] else []) + np.diff(ends).tolist()
    return {"size": list(mask.shape), "counts": counts}


def _box(mask: np.ndarray) -> list[float]:
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    return [float(v) for v in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


def ytvis_records(index: int, video: Video) -> tuple[dict, list[dict]]:
    """Video and annotations of YouTube-VIS for one video; a list entry is null where the object is not annotated.

    Ids depend on `index` alone. Beyond the format's keys an annotation has `instance_id` (of the object within the
    video), `depth` (0 is the nearest object of the video), `covered` (hidden share per frame, null outside the frame)
    and `amodal_segmentations` (null outside the frame).
    """
    height, width = video.plan.height, video.plan.width
    name = video_name(index)
    record = {
        "id": index + 1,
        "name": name,
        "width": width,
        "height": height,
        "length": video.plan.frames,
        "file_names": [f"{name}/{frame:05d}.png" for frame in range(video.plan.frames)],
    }
    inside = video.amodal.any(axis=(2, 3))
    annotations = []
    seen = shown(video)
    for depth in np.flatnonzero(seen.any(axis=0)):
        masks = [mask if use else None for mask, use in zip(video.visible[:, depth], seen[:, depth], strict=True)]
        whole = [mask if use else None for mask, use in zip(video.amodal[:, depth], inside[:, depth], strict=True)]
        covered = zip(video.covered[:, depth], inside[:, depth], strict=True)
        annotations.append(
            {
                "id": record["id"] * 100 + int(video.ids[depth]),
                "video_id": record["id"],
                "category_id": int(video.categories[depth]) + 1,
                "iscrowd": 0,
                "width": width,
                "height": height,
                "length": video.plan.frames,
                "segmentations": [None if mask is None else run_lengths(mask) for mask in masks],
                "bboxes": [None if mask is None else _box(mask) for mask in masks],
                "areas": [None if mask is None else int(mask.sum()) for mask in masks],
                "instance_id": int(video.ids[depth]),
                "depth": int(depth),
                "covered": [round(float(share), 4) if use else None for share, use in covered],
                "amodal_segmentations": [None if mask is None else run_lengths(mask) for mask in whole],
            }
        )
    return record, annotations


def _flags(video: Video, frame: int, number: int) -> tuple[bool, bool]:
    """Whether the object reaches beyond the frame, and whether another one hides some of it."""
    outline = video.plan.objects[number][frame].contours()[0]
    truncated = (outline < 0).any() or (outline > (video.plan.width, video.plan.height)).any()
    return bool(truncated), bool(video.covered[frame, number] >= OCCLUDED)


def mots_bitmask(video: Video, frame: int) -> np.ndarray:
    """Bitmask of BDD100K for one frame: (H, W, 4) uint8 RGBA.

    R is the category id (from 1 on, 0 is background), G the flags truncated << 3 | occluded << 2 | crowd << 1 |
    ignored, and (B << 8) + A the object's id.
    """
    bitmask = np.zeros((video.plan.height, video.plan.width, 4), dtype=np.uint8)
    for number in annotated(video.rendering(frame)):
        truncated, occluded = _flags(video, frame, number)
        identity = int(video.ids[number])
        bitmask[video.visible[frame, number]] = (
            video.categories[number] + 1,
            truncated << 3 | occluded << 2,
            identity >> 8,
            identity & 255,
        )
    return bitmask


def scalabel_frame(index: int, video: Video, frame: int) -> dict:
    """One frame of BDD100K's RLE json (Scalabel): name, videoName, frameIndex from 0 on, labels nearest first."""
    labels = []
    for number in annotated(video.rendering(frame)):
        truncated, occluded = _flags(video, frame, number)
        encoded = mask_util.encode(np.asfortranarray(video.visible[frame, number], dtype=np.uint8))
        labels.append(
            {
                "id": str(video.ids[number]),
                "category": CATEGORIES[video.categories[number]].name,
                "attributes": {"crowd": False, "occluded": occluded, "truncated": truncated},
                "rle": {"counts": encoded["counts"].decode("ascii"), "size": encoded["size"]},
            }
        )
    name = video_name(index)
    return {"name": f"{name}-{frame + 1:07d}.png", "videoName": name, "frameIndex": frame, "labels": labels}


def voi_masks(video: Video, frame: int, identity: int) -> dict[str, np.ndarray]:
    """The four masks (H, W) bool of YouTube-VOI for one object: complete, hidden, occluders' complete, visible.

    The occluders are all objects that hide a part of this one in at least one frame (`Video.occluders`).
    """
    full = video.amodal[frame, video.number(identity)]
    occluders = [video.number(other) for other in video.occluders(identity)]
    occluder = video.amodal[frame, occluders].any(axis=0)
    return {
        "full_mask": full,
        "occ_mask": full & occluder,
        "occ_mask_full": occluder,
        "remain_mask": full & ~occluder,
    }


def voi_tracks(index: int, video: Video) -> list[dict]:
    """The objects that make a track of YouTube-VOI: hidden by 5 % or more in one frame, and annotated in one."""
    inside = video.amodal.any(axis=(2, 3))
    hidden = ((video.covered >= OCCLUDED) & inside).any(axis=0)
    return [
        {
            "video": video_name(index),
            "id": int(video.ids[number]),
            "category_id": int(video.categories[number]) + 1,
            "category": CATEGORIES[video.categories[number]].name,
            "frames": video.plan.frames,
            "occluders": list(video.occluders(int(video.ids[number]))),
            "mean_covered": round(float(video.covered[inside[:, number], number].mean()), 4),
        }
        for number in np.flatnonzero(hidden & shown(video).any(axis=0))
    ]


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))


def _write_frames(folder: Path, index: int, frames: list[bytes]) -> None:
    images = folder / "JPEGImages" / video_name(index)
    images.mkdir(parents=True)
    for frame, encoded in enumerate(frames):
        (images / f"{frame:05d}.png").write_bytes(encoded)


def write_flow(folder: Path, video: Video, leave_out: tuple[int, ...] = ()) -> None:
    """Write `folder/forward/*.flo` and `folder/backward/*.flo` (Middlebury), named by the frame where the flow starts.

    Args:
        folder: to write into.
        video: whose flow.
        leave_out: ids of objects that are taken away first.

    Raises:
        DatasetError: the disk refuses a file.
    """
    for direction, step in (("forward", 1), ("backward", -1)):
        (folder / direction).mkdir(parents=True)
        for frame in range(max(0, -step), video.plan.frames - max(0, step)):
            path = folder / direction / f"{frame:05d}.flo"
            if not cv2.writeOpticalFlow(str(path), video.flow(frame, step, leave_out)):
                raise DatasetError(f"cannot write {path}: is the disk full?")


def write_layers(folder: Path, video: Video) -> None:
    """Write every frame's clean `folder/background/*.png` (BGR) and each object's `folder/<id>/*.png` (with alpha)."""
    for frame in range(video.plan.frames):
        _write(folder / "background" / f"{frame:05d}.png", video.backgrounds[frame])
        for identity in video.plan.ids:
            _write(folder / str(identity) / f"{frame:05d}.png", video.layer(frame, identity))


def write_ytvis(folder: Path, index: int, video: Video, frames: list[bytes]) -> tuple[dict, list[dict]]:
    """Write the encoded frames as `folder/JPEGImages/<video>/00000.png` and on; returns the records for the json."""
    _write_frames(folder, index, frames)
    return ytvis_records(index, video)


def write_mots(folder: Path, index: int, video: Video, frames: list[bytes]) -> None:
    """Write BDD100K's `images` and `bitmasks` (`<video>/<video>-0000001.png` and on) and `rles/<video>.json`."""
    name = video_name(index)
    (folder / "images" / name).mkdir(parents=True)
    for frame, encoded in enumerate(frames):
        file_name = f"{name}/{name}-{frame + 1:07d}.png"
        (folder / "images" / file_name).write_bytes(encoded)
        _write(folder / "bitmasks" / file_name, cv2.cvtColor(mots_bitmask(video, frame), cv2.COLOR_RGBA2BGRA))
    (folder / "rles").mkdir(exist_ok=True)
    content = {"frames": [scalabel_frame(index, video, frame) for frame in range(video.plan.frames)]}
    (folder / "rles" / f"{name}.json").write_text(json.dumps(content))


def write_voi(folder: Path, index: int, video: Video, frames: list[bytes], flow: bool) -> list[dict]:
    """Write `folder/JPEGImages/<video>/*.png` and, per track, the four mask folders (0 or 255) and `clean`.

    A track's folder is `tracks/<video>/<id>`; `clean` holds the frames without the track's occluders.

    Args:
        folder: to write into.
        index: of the video.
        video: what to write.
        frames: the encoded frames.
        flow: also write the clean frames' flow, as `forward` and `backward` beside the masks.

    Returns:
        The tracks' records for the json.
    """
    _write_frames(folder, index, frames)
    tracks = voi_tracks(index, video)
    for track in tracks:
        target = folder / "tracks" / track["video"] / str(track["id"])
        for frame in range(video.plan.frames):
            for name, mask in voi_masks(video, frame, track["id"]).items():
                _write(target / name / f"{frame:05d}.png", mask.astype(np.uint8) * 255)
            _write(target / "clean" / f"{frame:05d}.png", video.without(frame, track["occluders"]))
        if flow:
            write_flow(target, video, tuple(track["occluders"]))
    return tracks
