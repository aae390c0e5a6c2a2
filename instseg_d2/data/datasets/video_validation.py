"""The form of a YouTube-VIS file: `videos` with frames, and annotations that are tracks over them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from .validation import (
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
    list_of,
    short,
    summarise,
)

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
    "track-length": (True, "lists of a track have one entry a frame, null where the instance is not seen"),
    "empty-track": (False, "fine; an instance that is never seen takes no part"),
    "videos-without-tracks": (False, "fine for inference; there is nothing to train or evaluate on"),
}
_ALL_ADVICE = ADVICE | VIDEO_ADVICE

# Lists of a track with one entry a frame; all but the first may be missing.
_MASK_KEYS = ("segmentations", "amodal_segmentations")
_FRAME_KEYS = (*_MASK_KEYS, "bboxes", "areas", "covered")


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
    wrong = [key for key in _FRAME_KEYS if not isinstance(track.get(key) or [], list)]
    wrong += ["segmentations"] if track.get("segmentations", []) is None else []
    if missing or wrong or not is_integer(track["id"]):
        fault = f"of a wrong type: {', '.join(map(repr, wrong or ['id']))}"
        fault = f"no {', '.join(map(repr, missing))}" if missing else fault
        yield "bad-track", f"annotations[{position}] (id {track.get('id')!r}): {fault}"
        return
    where = track_place(track)
    yield from check_category_of(track, categories, where)
    video = videos.get(track["video_id"]) if is_integer(track["video_id"]) else None
    if video is None:
        yield "unknown-video", f"{where}: no video with this id"
        return
    yield from _check_frames(track, video, where)


def _check_frames(track: dict, video: dict, where: str) -> Iterator[Finding]:
    """The lists with one entry a frame."""
    for key in _FRAME_KEYS:
        entries = track.get(key)
        if (entries or key == "segmentations") and len(entries) != len(video["file_names"]):
            yield "track-length", f"{where}: {len(entries)} {key!r} for {len(video['file_names'])} frames"
    size = [video["height"], video["width"]]
    for key in _MASK_KEYS:
        for frame, mask in enumerate(track.get(key) or ()):
            if mask is not None:
                yield from check_segmentation(mask, size, f"{where}, frame {frame}", key)
    for frame, box in enumerate(track.get("bboxes") or ()):
        if box is not None:
            yield from check_box(box, f"{where}, frame {frame}")
    if not any(track["segmentations"]):
        yield "empty-track", f"{where}: no frame has a mask"


def track_place(track: dict) -> str:
    """How a track is called in a message."""
    return f"annotation {track['id']!r} of video {short(track.get('video_id'))}"


def sound_videos(content: Any) -> dict[int, dict]:
    """The usable entries of `videos` by id."""
    listed = enumerate(list_of(content, "videos"))
    return {video["id"]: video for at, video in listed if is_sound(_check_video(video, at), _ALL_ADVICE)}


def sound_tracks(content: Any) -> Iterator[dict]:
    """The usable entries of `annotations`, of sound videos."""
    videos, categories = sound_videos(content), category_ids(list_of(content, "categories"))
    for position, track in enumerate(list_of(content, "annotations")):
        if is_sound(_check_track(track, position, videos, categories), _ALL_ADVICE):
            yield track


def _findings(content: Any) -> Iterator[Finding]:
    if not is_video_set(content):
        found = f"it has {short(sorted(content))}" if isinstance(content, dict) else f"it is {short(content)}"
        yield "missing-key", f"no list 'videos' at the top level; {found}"
        return
    if content.get("annotations") is None:
        yield "no-annotations", "the file has no 'annotations'"
    for key in ("videos", "categories", "annotations"):
        if not isinstance(content.get(key), list) and not (key == "annotations" and content.get(key) is None):
            yield "missing-key", f"no list {key!r} at the top level; it has {short(sorted(content))}"
    if isinstance(content.get("categories"), list):
        yield from check_categories(content["categories"])
    if content["videos"] == []:
        yield "bad-video", "'videos' is empty"
    seen = set()
    for position, video in enumerate(list_of(content, "videos")):
        yield from _check_video(video, position)
        if isinstance(video, dict) and is_integer(video.get("id")):
            if video["id"] in seen:
                yield "duplicate-video-id", f"video id {video['id']} (videos[{position}]) occurs again"
            seen.add(video["id"])
    videos, categories = sound_videos(content), category_ids(list_of(content, "categories"))
    tracks = list_of(content, "annotations")
    for position, track in enumerate(tracks):
        yield from _check_track(track, position, videos, categories)
    yield from check_annotation_ids(tracks, track_place)
    used = {track["video_id"] for track in tracks if isinstance(track, dict) and is_integer(track.get("video_id"))}
    for video in videos:
        if video not in used:
            yield "videos-without-tracks", f"video {video}"


def validate_videos(content: Any) -> list[Problem]:
    """Check the form of a YouTube-VIS file, as `validate_coco` does that of a COCO file."""
    return summarise(_findings(content), _ALL_ADVICE)
