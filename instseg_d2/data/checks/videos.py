"""What a YouTube-VIS file holds: every frame of its videos, and the parts of its tracks."""

from collections.abc import Iterator

from ..datasets.video_validation import sound_tracks, sound_videos, track_place
from .contents import Contents, Picture, Region, category_names, number


def video_contents(content: dict, limit: int | None = None) -> Contents:
    """Frames and their regions; `limit` keeps those of the first videos only."""
    videos = sound_videos(content)
    kept = dict(list(videos.items())[:limit])
    pictures = [
        Picture((key, frame), f"frame {frame} of video {key}", file_name, (video["height"], video["width"]))
        for key, video in kept.items()
        for frame, file_name in enumerate(video["file_names"])
    ]
    tracks = [track for track in sound_tracks(content) if track["video_id"] in kept]
    regions = [region for track in tracks for region in _regions(track, kept[track["video_id"]])]
    return Contents(pictures, regions, category_names(content), videos=len(kept), left_out=len(videos) - len(kept))


def _regions(track: dict, video: dict) -> Iterator[Region]:
    count = len(video["file_names"])
    boxes, areas = (track.get(key) or [None] * count for key in ("bboxes", "areas"))
    for frame, (mask, box, area) in enumerate(zip(track["segmentations"], boxes, areas, strict=True)):
        if mask:
            yield Region(
                picture=(video["id"], frame),
                where=f"{track_place(track)}, frame {frame}",
                height_width=(video["height"], video["width"]),
                category=track["category_id"],
                segmentation=mask,
                box=box,
                area=number(area),
                is_crowd=bool(track.get("iscrowd")),
                track=track["id"],
            )
