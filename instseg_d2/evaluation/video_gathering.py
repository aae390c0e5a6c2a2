"""What the processes found in their videos, brought together."""

from collections.abc import Mapping
from typing import TypeVar

from detectron2.utils import comm

Video = TypeVar("Video", int, str)
Found = TypeVar("Found")


def gather_videos(found: Mapping[Video, Found], distributed: bool) -> dict[Video, Found] | None:
    """Join what each process has by video.

    Args:
        found: of this process, by video.
        distributed: whether there are others to ask.

    Returns:
        Everything on the main process, None on others.

    Raises:
        ValueError: two processes have frames of one video. Each counts tracks on its own, so they cannot be joined.
    """
    if not distributed:
        return dict(found)
    comm.synchronize()
    gathered = comm.gather(dict(found), dst=0)
    if not comm.is_main_process():
        return None
    joined: dict[Video, Found] = {}
    for one in gathered:
        twice = joined.keys() & one.keys()
        if twice:
            raise ValueError(
                f"frames of video {min(twice)} came to several processes: a test loader of videos keeps them together, "
                "such as instseg_d2.data.videos.build_video_test_loader"
            )
        joined.update(one)
    return joined
