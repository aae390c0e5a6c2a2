import cv2
import numpy as np
import pytest

from instseg_d2.data.clips import Clip, find_clips
from instseg_d2.data.media import MediaError, find_media


def write_frames(folder, shades, size=(48, 64)):
    folder.mkdir(parents=True)
    for number, shade in enumerate(shades):
        cv2.imwrite(str(folder / f"frame{number}.png"), np.full((*size, 3), shade, np.uint8))


def test_a_folder_is_a_video_in_natural_order(tmp_path):
    write_frames(tmp_path / "a.v1", range(12))
    write_frames(tmp_path / "a.v1" / "deeper", [100, 101])
    clips = {clip.name: clip for clip in find_clips(find_media([tmp_path]), join_images=True)}
    assert {name: clip.length for name, clip in clips.items()} == {"a.v1": 12, "deeper": 2}
    assert [frame[0, 0, 0] for frame in clips["a.v1"].frames()] == list(range(12))
    assert clips["a.v1"].file_name(10).endswith("frame10.png")
    assert clips["a.v1"].fps(7.5) == 7.5
    assert find_clips(find_media([tmp_path])) == []


def test_a_video_file_is_read_frame_by_frame(tmp_path):
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12, (64, 48))
    for shade in (0, 100, 200):
        writer.write(np.full((48, 64, 3), shade, np.uint8))
    writer.release()
    (clip,) = find_clips([path])
    assert (clip.name, clip.length, clip.fps(7.5), clip.file_name(2)) == ("clip", 3, 12, f"{path}/000002")
    assert [frame.mean() for frame in clip.frames()] == pytest.approx([0, 100, 200], abs=8)


def test_frames_of_another_size_and_broken_ones_end_a_video_and_are_named(tmp_path):
    write_frames(tmp_path / "a", [10, 20, 30])
    images = sorted((tmp_path / "a").iterdir())
    cv2.imwrite(str(images[1]), np.zeros((50, 64, 3), np.uint8))
    frames = Clip(tmp_path / "a", tuple(images)).frames()
    assert next(frames)[0, 0, 0] == 10
    with pytest.raises(MediaError, match="frame 1 of video '.*a' is 64 x 50 px, and its first frame is 64 x 48: split"):
        next(frames)
    images[1].write_bytes(b"no image")
    with pytest.raises(MediaError, match=r"frame1\.png"):
        list(Clip(tmp_path / "a", tuple(images)).frames())


def test_a_video_without_frames_is_named(tmp_path):
    path = tmp_path / "clip.avi"
    cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12, (64, 48)).release()
    with pytest.raises(MediaError, match=r"clip\.avi"):
        list(Clip(path).frames())
