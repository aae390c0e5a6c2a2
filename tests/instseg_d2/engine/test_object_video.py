from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from instseg_d2.data.clips import Clip
from instseg_d2.data.errors import DatasetError
from instseg_d2.data.media import MediaError
from instseg_d2.engine.object_video import ObjectVideo, open_clip


@dataclass
class Masks:
    """Masks of some width in each frame of 12 x 16 px."""

    widths: tuple[int, ...]
    size: tuple[int, int] = (12, 16)
    where: str = "given"
    repeats: bool = False

    def masks(self):
        while True:
            for width in self.widths:
                mask = np.zeros(self.size, dtype=bool)
                mask[:, :width] = True
                yield mask
            if not self.repeats:
                return


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "clip").mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / "clip" / f"{number}.png"), np.full((12, 16, 3), number, np.uint8))
    return open_clip(str(tmp_path / "clip"))


def test_frames_come_with_their_masks(clip):
    video = ObjectVideo(clip, Masks((1, 0, 3, 0)), occluders=Masks((5,), repeats=True))
    survey = video.survey()
    assert (survey.frames, survey.height, survey.width, survey.seen) == (4, 12, 16, (0, 2))
    frames = list(video.frames())
    assert [one.image[0, 0, 0] for one in frames] == [0, 1, 2, 3]
    assert [one.visible[0].sum() for one in frames] == [1, 0, 3, 0]
    assert [one.occluders[0].sum() for one in frames] == [5, 5, 5, 5]
    assert all(one.complete is None for one in frames)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"visible": Masks((1, 1, 1))}, "'given' has 3 masks, and the video '.*clip' 4 frames"),
        ({"visible": Masks((1, 1, 1, 1, 1))}, "has 5 masks"),
        ({"visible": Masks((1,) * 4), "complete": Masks((1, 1), where="full")}, "'full' has 2 masks"),
        ({"visible": Masks((1,) * 4, (12, 8))}, "mask 0 of 'given' is 8 x 12 px, the frames are 16 x 12 px"),
        ({"visible": Masks((1,) * 4), "occluders": Masks((1,), (9, 9), repeats=True)}, "mask 0 of 'given' is 9 x 9"),
        ({"visible": Masks((0,) * 4)}, "empty in all 4 frames: an object that is never visible"),
    ],
)
def test_masks_that_do_not_fit(clip, masks, message):
    with pytest.raises(DatasetError, match=message):
        ObjectVideo(clip, **masks).survey()


def test_number_of_frames_is_counted_where_the_header_may_be_wrong(clip, monkeypatch):
    monkeypatch.setattr(Clip, "length", property(lambda self: 7))
    assert ObjectVideo(clip, Masks((1,) * 4)).survey().frames == 4


def test_several_videos(clip, tmp_path):
    with pytest.raises(FileNotFoundError):
        open_clip(str(tmp_path / "nowhere"))
    (tmp_path / "second").mkdir()
    cv2.imwrite(str(tmp_path / "second" / "0.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(MediaError, match="holds 2 videos, .*clip, .*second: name one of them"):
        open_clip(str(tmp_path))
