from pathlib import Path

import cv2
import numpy as np
import pytest

from instseg_d2.data.clips import Clip
from instseg_d2.engine import inpainting_folder
from instseg_d2.engine.inpainting_folder import InpaintingFolder
from instseg_d2.engine.overrides import SettingError
from instseg_d2.inpainting.pipeline import CompletedFrame

CLIP = Clip(Path("clip.mp4"))


def frame(index):
    """Of 9 x 13 px: an object of two columns, of which one was hidden and half of that is still unknown."""
    image = np.full((9, 13, 3), 10 * index + 5, np.uint8)
    visible, hidden = np.zeros((2, 9, 13), dtype=bool)
    visible[:, 3], hidden[:, 4] = True, True
    left = hidden.copy()
    left[:5] = False
    none = np.zeros_like(left)
    return CompletedFrame(index, image, image, visible, visible | hidden, none, none, hidden & ~left, left)


def start(path, settings=None, *, resume=False, clip=CLIP):
    return InpaintingFolder(path, clip, settings or {"size": (1, 2)}, resume=resume, intermediate=False)


def test_files_of_a_frame_and_videos_of_odd_sizes(tmp_path):
    folder = start(tmp_path / "out")
    for index in range(3):
        folder.add(frame(index))
    alone = cv2.imread(str(tmp_path / "out" / "object" / "000002.png"), cv2.IMREAD_UNCHANGED)
    assert alone.shape == (9, 13, 4)
    assert alone[2, 4].tolist() == [25, 25, 25, 255]
    assert alone[7, 4].tolist() == alone[0, 0].tolist() == [0, 0, 0, 0]
    assert (cv2.imread(str(tmp_path / "out" / "masks" / "000000.png"), 0) > 0).sum() == 18
    videos = folder.write_videos(10)
    assert [path.name for path in videos] == ["scene.mp4", "object.mp4"]
    for path in videos:
        capture = cv2.VideoCapture(str(path))
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert folder.totals() == {"visible": 27, "hidden": 27, "propagated": 0, "made_up": 15, "left": 12}
    assert folder.write_strip() is None
    assert not list((tmp_path / "out").glob("*.partial*"))


def test_frames_are_called_as_their_images(tmp_path):
    named = start(tmp_path / "a", clip=Clip(Path("a"), (Path("a/x.jpg"), Path("a/y.jpg"))))
    assert named.file("scene", 1).name == "y.png"
    twice = start(tmp_path / "b", clip=Clip(Path("a"), (Path("a/x.jpg"), Path("a/x.png"))))
    assert twice.file("scene", 1).name == "000001.png"


def test_going_on(tmp_path):
    start(tmp_path / "out").add(frame(0))
    with pytest.raises(SettingError, match="has an earlier run; continue it with --resume"):
        start(tmp_path / "out")
    with pytest.raises(SettingError, match=r"size was \[1, 2\] and is \[3, 4\]; name another folder"):
        start(tmp_path / "out", {"size": (3, 4)}, resume=True)
    again = start(tmp_path / "out", resume=True)
    assert again.continues
    assert [again.is_finished(index) for index in (0, 1)] == [True, False]
    again.file("masks", 0).unlink()
    assert not start(tmp_path / "out", resume=True).is_finished(0)
    # Without a finished frame nothing is lost.
    assert not start(tmp_path / "out", {"size": (3, 4)}).continues


def test_a_video_that_was_not_written_as_a_whole_is_told(tmp_path, monkeypatch):
    folder = start(tmp_path / "out")
    folder.add(frame(0))
    monkeypatch.setattr(inpainting_folder.AnnotatedVideo, "write", lambda self, picture: None)
    with pytest.raises(OSError, match=r"cannot write video .*scene\.mp4: is the disk full\? The frames are whole"):
        folder.write_videos(10)
