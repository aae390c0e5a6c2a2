"""The folder layout: OccVideo's exact sets, built ones, and masks as they were published, without a manifest."""

import json
import shutil

import cv2
import numpy as np
import pytest

from instseg_d2.data import DatasetError
from instseg_d2.data.synthetic.outlines import CATEGORIES
from instseg_d2.data.synthetic.video import occvideo
from instseg_d2.data.video_inpainting.builder import VOIBuild, write_voi_set
from instseg_d2.data.video_inpainting.exact import occvideo_tracks
from instseg_d2.data.video_inpainting.keys import split_of
from instseg_d2.data.video_inpainting.sources import PaletteMasks
from instseg_d2.data.video_inpainting.tracks import TrackRules
from instseg_d2.data.video_inpainting.voi import MASKS, check_track, read_voi


@pytest.fixture
def copy(built, tmp_path):
    """A track of a set that may be spoiled, and the set."""
    folder = tmp_path / "set"
    shutil.copytree(built[0], folder)
    row = json.loads((folder / "tracks.json").read_text())["tracks"][0]
    images = json.loads((folder / "tracks.json").read_text())["info"]["images"]
    return folder, folder / row["folder"], (built[0] / images).resolve()


def test_occvideo_written_and_drawn_are_the_same(occvideo_set):
    written = read_voi(occvideo_set / "voi")
    drawn = occvideo_tracks(videos=3, seed=3, frames=8, size=(64, 96))
    by_name = {(track.video, track.name): track for track in drawn}
    assert {(track.video, track.name) for track in written} == by_name.keys()
    for track in written[:3]:
        other = by_name[track.video, track.name]
        assert (track.category, track.category_index) == (other.category, other.category_index)
        assert track.category == CATEGORIES[track.category_index].name
        assert len(track) == len(other) == 8
        assert track.split == other.split == split_of(track.video)
        for frame in (0, 5):
            masks, true = track.masks(frame), other.masks(frame)
            assert all((masks[name] == true[name]).all() for name in MASKS)
            assert (track.clean(frame) == other.clean(frame)).all()
            for rendering in ("composite", "hole"):
                assert (track.observed(frame, rendering) == other.observed(frame, rendering)).all()
        assert (track.flow(3, "forward") == other.flow(3, "forward")).all()
        assert (track.flow(3, "backward") == other.flow(3, "backward")).all()
        assert track.flow(7, "forward") is None
        assert check_track(track) == []


def test_flow_is_that_of_the_clean_frames():
    track = next(one for one in occvideo_tracks(videos=2, frames=4, size=64) if one.occluders)
    video = occvideo(track.seed, track.index, frames=4, size=64)
    np.testing.assert_array_equal(track.flow(1, "forward"), video.flow(1, 1, track.occluders))


def test_split_selects_tracks(palette, tmp_path):
    names = [f"video_{number}" for number in range(40)]
    videos = {split: next(name for name in names if split_of(name) == split) for split in ("train", "evaluation")}
    source = PaletteMasks("davis", palette(videos=list(videos.values())))
    build = VOIBuild(source=source, targets=TrackRules(frames=4), appearance=False)
    write_voi_set(tmp_path / "set", build, progress=False)
    assert {track.video for track in read_voi(tmp_path / "set")} == set(videos.values())
    # With its manifest and without.
    for _ in range(2):
        for split, video in videos.items():
            assert {track.video for track in read_voi(tmp_path / "set", images=source.images, split=split)} == {video}
        (tmp_path / "set/tracks.json").unlink(missing_ok=True)
    with pytest.raises(DatasetError, match="no tracks of the split 'val'"):
        read_voi(tmp_path / "set", images=source.images, split="val")


@pytest.mark.parametrize("below", ["", "tracks"])
def test_masks_as_published(copy, tmp_path, below):
    folder, _, images = copy
    published = tmp_path / "published" / below
    published.mkdir(parents=True)
    expected = {(track.video, track.name): track for track in read_voi(folder, images=images)}
    for (video, name), track in expected.items():
        for kind in MASKS:
            shutil.copytree(track.folder / kind, published / video / name / kind)
    found = read_voi(tmp_path / "published", images=images)
    assert {(track.video, track.name) for track in found} == expected.keys()
    track = found[0]
    true = expected[track.video, track.name]
    assert track.category is None
    assert track.category_index == -1
    assert track.files == true.files
    assert (track.clean(2) == true.clean(2)).all()
    assert (track.observed(2, "hole") == true.observed(2, "hole")).all()
    with pytest.raises(DatasetError, match="no picture of the occluder .* show a hole instead"):
        track.observed(2)


def test_masks_that_do_not_add_up_are_found(copy):
    folder, place, images = copy
    path = next((place / "occ_mask").glob("*.png"))
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(path), 255 - mask)
    track = next(track for track in read_voi(folder, images=images) if track.folder == place)
    problems = check_track(track)
    assert any("both hidden and visible" in problem for problem in problems)
    assert any("occ_mask has other pixels than tracks.json says" in problem for problem in problems)


def test_other_numbers_of_masks(copy):
    folder, place, images = copy
    (place / "remain_mask/00002.png").unlink()
    with pytest.raises(DatasetError, match="8 masks in full_mask, 7 in remain_mask; frame 00002 is in one of them"):
        read_voi(folder, images=images)


def test_fewer_masks_than_the_manifest_says(copy):
    folder, place, images = copy
    for kind in MASKS:
        (place / kind / "00002.png").unlink()
    with pytest.raises(DatasetError, match=r"7 masks, but tracks.json lists 8 frames for it"):
        read_voi(folder, images=images)


def test_masks_of_another_size(copy):
    folder, place, images = copy
    cv2.imwrite(str(place / "full_mask/00002.png"), np.zeros((32, 48), dtype=np.uint8))
    track = next(track for track in read_voi(folder, images=images) if track.folder == place)
    with pytest.raises(DatasetError, match="00002.png is 48 x 32 px, the frame .* 96 x 64 px"):
        track.masks(2)


def test_broken_mask(copy):
    folder, place, images = copy
    (place / "full_mask/00002.png").write_bytes(b"")
    track = next(track for track in read_voi(folder, images=images) if track.folder == place)
    with pytest.raises(DatasetError, match="cannot read mask .*00002.png"):
        track.masks(2)


@pytest.mark.parametrize("kind", MASKS)
def test_missing_folder(copy, kind):
    folder, place, images = copy
    shutil.rmtree(place / kind)
    with pytest.raises(DatasetError, match=f"{kind} is missing or empty"):
        read_voi(folder, images=images)


def test_frames_elsewhere(copy, tmp_path):
    folder, _, images = copy
    with pytest.raises(DatasetError, match="say where the frames are"):
        read_voi(folder, images=tmp_path)
    (folder / "tracks.json").unlink()
    with pytest.raises(DatasetError, match="no folder .* with the frames of the masks"):
        read_voi(folder, images=tmp_path)


def test_no_set(tmp_path):
    with pytest.raises(DatasetError, match="no folder"):
        read_voi(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="has no tracks"):
        read_voi(tmp_path)
    (tmp_path / "tracks.json").write_text('{"tracks": [3]}')
    with pytest.raises(DatasetError, match=r"tracks.json does not list tracks"):
        read_voi(tmp_path)


def test_folder_of_one_track_is_no_set(copy):
    with pytest.raises(DatasetError, match="holds masks itself"):
        read_voi(copy[1], images=copy[2])
