"""The same objects come out of a YouTube-VIS json and out of palette PNGs."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instseg_d2.data import DatasetError
from instseg_d2.data.synthetic.video import occvideo
from instseg_d2.data.synthetic.video_formats import shown
from instseg_d2.data.video_inpainting.sources import PaletteMasks, YouTubeVIS, source_of

REAL = Path(__file__).resolve().parents[5] / "shared/data/video_multiobj"


def test_occvideo_through_youtube_vis(source):
    tracks = {track.key: track for track in source.read()}
    video = occvideo(3, 1, frames=8, size=(64, 96))
    seen = shown(video)
    of_video = [track for track in tracks.values() if track.video == "video_0001"]
    assert len(of_video) == seen.any(axis=0).sum()
    for track in of_video:
        number = video.number(track.identity % 100)
        assert (track.stack() == video.visible[:, number] & seen[:, number, None, None]).all()
        assert len(track.files) == 8
        assert all(file.is_file() for file in track.files)


def test_palette_is_read_as_indices(palette):
    root = palette(sub="480p")
    tracks = PaletteMasks("davis", root).read()
    assert [track.key for track in tracks] == [("davis", video, one) for video in "ab" for one in (1, 2)]
    assert [track.category for track in tracks] == [None] * 4
    assert tracks[0].stack().sum(axis=(1, 2)).tolist() == [8 * 12] * 6
    assert tracks[0].mask(3)[4, 5:17].all()
    assert tracks[0].files[2] == root / "JPEGImages/480p/a/00002.png"


def test_void_is_no_object_and_absence_is_none(palette):
    root = palette(videos=["a"])
    path = root / "Annotations/a/00001.png"
    indices = np.array(Image.open(path))
    indices[indices == 1] = 254
    indices[0, 0] = 255
    Image.fromarray(indices).save(path)
    first, second = PaletteMasks("davis", root).read()
    assert [mask is None for mask in first.masks] == [False, True, False, False, False, False]
    assert not first.mask(1).any()
    assert None not in second.masks


def test_categories_of_youtube_vos(palette):
    root = palette()
    objects = {"1": {"category": "dog", "frames": ["00000"]}, "2": {"category": "cat", "frames": ["00000"]}}
    (root / "meta.json").write_text(json.dumps({"videos": {"a": {"objects": objects}}}))
    assert [track.category for track in PaletteMasks("vos", root).read()] == ["dog", "cat", None, None]
    (root / "meta.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"meta\.json is not of YouTube-VOS's form"):
        PaletteMasks("vos", root).read()


def test_frames_without_a_mask_are_left_out(palette):
    root = palette(videos=["a"])
    for number in (1, 3, 5):
        (root / f"Annotations/a/{number:05d}.png").unlink()
    assert [file.stem for file in PaletteMasks("vos", root).read()[0].files] == ["00000", "00002", "00004"]


def remove_frame(root):
    (root / "JPEGImages/a/00002.png").unlink()


def other_size(root):
    Image.fromarray(np.zeros((16, 24), dtype=np.uint8)).save(root / "Annotations/a/00003.png")


def with_colours(root):
    Image.fromarray(np.zeros((32, 48, 3), dtype=np.uint8)).save(root / "Annotations/a/00003.png")


def broken(root):
    (root / "Annotations/a/00003.png").write_bytes(b"no picture")


def no_frames(root):
    (root / "JPEGImages").rename(root / "Frames")


def no_video(root):
    (root / "JPEGImages/a").rename(root / "JPEGImages/c")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (remove_frame, r"1 of 6 masks in .*a have no frame .* the first is 00002"),
        (other_size, r"00003.png is 24 x 16 px, its frame .*00003.png 48 x 32 px"),
        (with_colours, r"00003.png is no palette PNG but has colours \(RGB\)"),
        (broken, r"cannot read mask .*00003.png"),
        (no_frames, r"no folder .*JPEGImages"),
        (no_video, r"no folder .*a with the frames"),
    ],
)
def test_broken_folder_is_told(palette, spoil, words):
    root = palette()
    spoil(root)
    with pytest.raises(DatasetError, match=words):
        PaletteMasks("davis", root).read()


def test_videos_of_one_name(occvideo_set, tmp_path):
    content = json.loads((occvideo_set / "ytvis/annotations.json").read_text())
    content["videos"][1]["name"] = content["videos"][0]["name"]
    (tmp_path / "same.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="videos 1 and 2 are both called 'video_0000'"):
        YouTubeVIS("x", tmp_path / "same.json", occvideo_set / "ytvis/JPEGImages").read()


def test_what_a_path_means(palette, occvideo_set, tmp_path):
    json_file, images = occvideo_set / "ytvis/annotations.json", occvideo_set / "ytvis/JPEGImages"
    assert source_of(json_file, images) == YouTubeVIS("annotations", json_file, images)
    root = palette()
    assert source_of(root, name="d17") == PaletteMasks("d17", root)
    with pytest.raises(DatasetError, match="no file or folder"):
        source_of(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="give the image folder"):
        source_of(json_file)
    with pytest.raises(DatasetError, match="no image folder"):
        source_of(json_file, tmp_path / "nothing")


@pytest.mark.skipif(not REAL.is_dir(), reason="the small real videos are not on this machine")
def test_real_videos_in_both_forms():
    by_json = YouTubeVIS("real", REAL / "annotations/ytvis_val.json", REAL / "JPEGImages").read()
    by_png = [one for one in PaletteMasks("real", REAL).read() if one.video == "dogs_jump"]
    assert len(by_json) == len(by_png) == 3
    assert [one.category for one in by_json] == ["dog", "dog", "person"]
    for first, second in zip(by_json, by_png, strict=True):
        for frame in (0, 30, 65):
            assert (first.mask(frame) == second.mask(frame)).all()
