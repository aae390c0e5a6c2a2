import cv2
import numpy as np
import pytest

from instseg_d2.data.media import MediaError, find_media, is_video, load_image, read_frames, video_info


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("frame10.png", "frame9.png", "notes.txt", "sub/deep.JPG", "clip.mp4"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_folders_are_searched_in_natural_order(tree):
    assert [path.name for path in find_media([tree])] == ["clip.mp4", "frame9.png", "frame10.png", "deep.JPG"]


def test_globs_files_and_no_file_twice(tree):
    found = find_media([tree / "frame10.png", str(tree / "*.png")])
    assert [path.name for path in found] == ["frame10.png", "frame9.png"]
    assert is_video(tree / "clip.mp4")
    assert not is_video(tree / "frame9.png")


def test_what_is_not_there_or_no_media_is_named(tree):
    with pytest.raises(FileNotFoundError, match="nothing"):
        find_media([tree / "nothing*.png"])
    with pytest.raises(MediaError, match=r"notes\.txt"):
        find_media([tree / "notes.txt"])
    (tree / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image or video in folder"):
        find_media([tree / "empty"])


def test_images_are_read_as_bgr(tmp_path):
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 0] = 200
    cv2.imwrite(str(tmp_path / "blue.png"), picture)
    assert np.array_equal(load_image(tmp_path / "blue.png"), picture)


@pytest.mark.parametrize(
    "content", [b"", b"no image at all", cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()[:200]]
)
def test_broken_images_are_named(tmp_path, content):
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(MediaError, match=r"broken\.jpg"):
        load_image(tmp_path / "broken.jpg")


def test_frames_come_in_order(tmp_path):
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12, (64, 48))
    for index in range(4):
        writer.write(np.full((48, 64, 3), 60 * index, np.uint8))
    writer.release()
    info = video_info(path)
    assert (info.frames, info.fps, info.width, info.height) == (4, 12, 64, 48)
    means = [frame.mean() for frame in read_frames(path)]
    assert means == pytest.approx([0, 60, 120, 180], abs=8)


def test_a_file_whose_frames_change_size_has_that_of_the_first(tmp_path):
    """A stream of JPEGs may do that; OpenCV scales what follows."""
    sizes = [(64, 96)] * 2 + [(80, 120)] * 2
    pictures = [np.full((*size, 3), 50 * i, np.uint8) for i, size in enumerate(sizes)]
    path = tmp_path / "clip.avi"
    path.write_bytes(b"".join(cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures))
    frames = list(read_frames(path))
    assert [frame.shape[:2] for frame in frames] == [(64, 96)] * 4
    assert [round(frame.mean()) for frame in frames] == pytest.approx([0, 50, 100, 150], abs=2)


def test_broken_video_is_named(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"clip\.mp4"):
        next(read_frames(tmp_path / "clip.mp4"))
