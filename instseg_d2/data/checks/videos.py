"""The form of a YouTube-VIS file: `videos` with frames, and annotations that are tracks over them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..datasets.validation import (
    ADVICE,
    Advice,
    Finding,
    Problem,
    category_ids,
    check_annotation_ids,
    check_box,
    check_categories,
    check_category_of,
    check_segmentation,
    is_integer,
    is_sound,
    short,
    summarise,
)
from .contents import Contents, Picture, Region, category_names, list_of, number

VIDEO_ADVICE: Advice = {
    "missing-key": (True, "a YouTube-VIS file is an object with the lists 'videos', 'annotations' and 'categories'"),
    "bad-video": (
        True,
        "give every video an integer 'id', 'height' and 'width' in pixels, and 'file_names', one for each frame; "
        "'length' is their number",
    ),
    "duplicate-video-id": (True, "give every video an 'id' of its own"),
    "bad-track": (True, "give every annotation an integer 'id', 'video_id', 'category_id' and 'segmentations'"),
    "unknown-video": (True, "remove these annotations, or add their videos"),
    "track-length": (True, "'segmentations', 'bboxes' and 'areas' have one entry a frame, null where there is none"),
    "empty-track": (False, "fine; an instance that is never seen takes no part"),
    "videos-without-tracks": (False, "fine for inference; there is nothing to train or evaluate on"),
}
_ALL_ADVICE = ADVICE | VIDEO_ADVICE


def is_video_set(content: Any) -> bool:
    """Whether a json is of the YouTube-VIS form."""
    return isinstance(content, dict) and "videos" in content


def _check_video(video: Any, position: int) -> Iterator[Finding]:
    if not isinstance(video, dict) or not is_integer(video.get("id")):
        yield "bad-video", f"videos[{position}] has no integer 'id': {short(video)}"
        return
    where = f"video {video['id']}"
    for key in ("height", "width"):
        if not is_integer(video.get(key)) or video[key] <= 0:
            yield "bad-video", f"{where}: {key!r} is {short(video.get(key))}"
    names = video.get("file_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        yield "bad-video", f"{where}: 'file_names' is {short(names)}"
    elif video.get("length", len(names)) != len(names):
        yield "bad-video", f"{where}: 'length' is {short(video['length'])}, but there are {len(names)} 'file_names'"


def _check_track(track: Any, position: int, videos: Mapping, categories: Collection[int]) -> Iterator[Finding]:
    if not isinstance(track, dict):
        yield "bad-track", f"annotations[{position}] is {short(track)}"
        return
    missing = [key for key in ("id", "video_id", "category_id", "segmentations") if key not in track]
    lists = [track.get("segmentations"), track.get("bboxes") or [], track.get("areas") or []]
    if missing or not is_integer(track["id"]) or not all(isinstance(entries, list) for entries in lists):
        wrong = "'id', 'segmentations', 'bboxes' or 'areas' is of a wrong type"
        wrong = f"no {', '.join(map(repr, missing))}" if missing else wrong
        yield "bad-track", f"annotations[{position}] (id {track.get('id')!r}): {wrong}"
        return
    where = _place(track)
    yield from check_category_of(track, categories, where)
    video = videos.get(track["video_id"]) if is_integer(track["video_id"]) else None
    if video is None:
        yield "unknown-video", f"{where}: no video with this id"
        return
    for key in ("segmentations", "bboxes", "areas"):
        entries = track.get(key)
        if (entries or key == "segmentations") and len(entries) != len(video["file_names"]):
            yield "track-length", f"{where}: {len(entries)} {key!r} for {len(video['file_names'])} frames"
    size = [video["height"], video["width"]]
    for frame, mask in enumerate(track["segmentations"]):
        if mask is not None:
            yield from check_segmentation(mask, size, f"{where}, frame {frame}", "segmentations")
    for frame, box in enumerate(track.get("bboxes") or ()):
        if box is not None:
            yield from check_box(box, f"{where}, frame {frame}")
    if not any(track["segmentations"]):
        yield "empty-track", f"{where}: no frame has a mask"


def _place(track: dict) -> str:
    return f"annotation {track['id']!r} of video {short(track.get('video_id'))}"


def _sound_videos(content: Any) -> dict[int, dict]:
    listed = enumerate(list_of(content, "videos"))
    return {video["id"]: video for at, video in listed if is_sound(_check_video(video, at), _ALL_ADVICE)}


def _findings(content: dict) -> Iterator[Finding]:
    if content.get("annotations") is None:
        yield "no-annotations", "the file has no 'annotations'"
    for key in ("videos", "categories", "annotations"):
        if not isinstance(content.get(key), list) and not (key == "annotations" and content.get(key) is None):
            yield "missing-key", f"no list {key!r} at the top level; it has {short(sorted(content))}"
    if isinstance(content.get("categories"), list):
        yield from check_categories(content["categories"])
    seen = set()
    for position, video in enumerate(list_of(content, "videos")):
        yield from _check_video(video, position)
        if isinstance(video, dict) and is_integer(video.get("id")):
            if video["id"] in seen:
                yield "duplicate-video-id", f"video id {video['id']} (videos[{position}]) occurs again"
            seen.add(video["id"])
    videos, categories = _sound_videos(content), category_ids(list_of(content, "categories"))
    tracks = list_of(content, "annotations")
    for position, track in enumerate(tracks):
        yield from _check_track(track, position, videos, categories)
    yield from check_annotation_ids(tracks, _place)
    used = [track.get("video_id") for track in tracks if isinstance(track, dict)]
    for video in videos:
        if video not in used:
            yield "videos-without-tracks", f"video {video}"


def validate_videos(content: dict) -> list[Problem]:
    """Check the form of a YouTube-VIS file, as `validate_coco` does that of a COCO file."""
    return summarise(_findings(content), _ALL_ADVICE)


def video_contents(content: dict, limit: int | None = None) -> Contents:
    """Frames and their regions; `limit` keeps those of the first videos only."""
    videos = _sound_videos(content)
    kept = dict(list(videos.items())[:limit])
    names = category_names(content)
    pictures = [
        Picture((key, frame), f"frame {frame} of video {key}", file_name, (video["height"], video["width"]))
        for key, video in kept.items()
        for frame, file_name in enumerate(video["file_names"])
    ]
    regions = []
    for position, track in enumerate(list_of(content, "annotations")):
        if is_sound(_check_track(track, position, videos, names), _ALL_ADVICE) and track["video_id"] in kept:
            regions += _regions(track, kept[track["video_id"]])
    return Contents(pictures, regions, names, videos=len(kept), left_out=len(videos) - len(kept))


def _regions(track: dict, video: dict) -> Iterator[Region]:
    count = len(video["file_names"])
    boxes, areas = (track.get(key) or [None] * count for key in ("bboxes", "areas"))
    for frame, (mask, box, area) in enumerate(zip(track["segmentations"], boxes, areas, strict=True)):
        if mask:
            yield Region(
                picture=(video["id"], frame),
                where=f"{_place(track)}, frame {frame}",
                height_width=(video["height"], video["width"]),
                category=track["category_id"],
                segmentation=mask,
                box=box,
                area=number(area),
                is_crowd=bool(track.get("iscrowd")),
                track=track["id"],
            )
