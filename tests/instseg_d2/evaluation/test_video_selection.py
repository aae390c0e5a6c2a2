import pytest

from instseg_d2.data import DatasetError
from instseg_d2.evaluation import VideoSelection
from instseg_d2.evaluation.video_selection import EVERYTHING, video_names


@pytest.mark.parametrize("length", range(1, 12))
def test_parts_that_meet_have_all_frames_once(length):
    parts = [(0, 0.3), (0.3, 0.5), (0.5, 1)]
    frames = [frame for part in parts for frame in VideoSelection(part).frames(length)]
    assert frames == list(range(length)) == list(EVERYTHING.frames(length))


@pytest.mark.parametrize("part", [(0.5, 0.5), (0.6, 0.5), (-0.1, 1), (0, 1.1), (0.5,), (float("nan"), 1)])
def test_what_is_no_part(part):
    with pytest.raises(ValueError, match="two numbers from 0 to 1"):
        VideoSelection(part)


def test_videos_by_name_or_id():
    video = {"id": 7, "name": "crossing", "file_names": ["folder/0.jpg"]}
    names = video_names(video)
    assert names == (7, "crossing", "folder")
    assert all(VideoSelection(videos=[one]).takes(names) for one in (*names, "7"))
    assert not VideoSelection(videos=["other"]).takes(names)
    assert EVERYTHING.takes(names)
    assert video_names({"id": 7, "file_names": ["0.jpg"]}) == (7,)
    VideoSelection(videos=["crossing"]).check([names])
    with pytest.raises(DatasetError, match="no video other among the 1 of the truth: 7 or crossing or folder"):
        VideoSelection(videos=["crossing", "other"]).check([names])
