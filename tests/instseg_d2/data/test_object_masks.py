import json
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from instseg_d2.data.clips import Clip
from instseg_d2.data.errors import DatasetError
from instseg_d2.data.media import MediaError
from instseg_d2.data.object_masks import open_masks, read_tracks
from instseg_d2.data.run_lengths import encode_mask

CLIP = Clip(Path("somewhere/clip.mp4"))


def write_indices(path, values, mode="P"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8), mode="L")
    if mode == "P":
        image = Image.fromarray(np.asarray(values, dtype=np.uint8), mode="P")
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def stack(masks):
    return np.stack(list(masks.masks()))


@pytest.mark.parametrize("mode", ["P", "L"])
def test_images_that_number_objects(tmp_path, mode):
    frames = np.array([[[0, 1, 2]], [[2, 0, 1]], [[0, 0, 0]]])
    frames = np.concatenate([frames, np.full((3, 1, 3), 255 if mode == "P" else 0)], axis=1)
    for number, values in enumerate(frames):
        write_indices(tmp_path / "m" / f"{number}.png", values, mode)
    assert (stack(open_masks(tmp_path / "m", CLIP, object_id=2)) == (frames == 2)).all()
    assert (stack(open_masks(tmp_path / "m", CLIP, object_id=2, kind="others")) == (frames == 1)).all()
    expected = (frames == 1) | (frames == 2)
    assert (stack(open_masks(tmp_path / "m", CLIP, kind="any")) == expected).all()
    with pytest.raises(DatasetError, match=r"0\.png: up to here the masks number the objects 1, 2; choose one"):
        stack(open_masks(tmp_path / "m", CLIP))


def test_one_numbered_object_needs_no_number_and_two_are_noticed_late(tmp_path):
    for number, value in enumerate((7, 0, 7)):
        write_indices(tmp_path / "m" / f"{number}.png", [[value, 0]])
    assert stack(open_masks(tmp_path / "m", CLIP))[:, 0, 0].tolist() == [True, False, True]
    write_indices(tmp_path / "m" / "3.png", [[0, 8]])
    with pytest.raises(DatasetError, match=r"3\.png: .* 7, 8"):
        stack(open_masks(tmp_path / "m", CLIP))


@pytest.mark.parametrize("form", ["png", "jpg", "rgb", "1", "0/1"])
def test_black_and_white_images(tmp_path, form):
    expected = np.zeros((16, 16), dtype=bool)
    expected[:8] = True
    (tmp_path / "m").mkdir()
    if form == "1":
        Image.fromarray(expected).save(tmp_path / "m" / "0.png")
    elif form == "0/1":
        write_indices(tmp_path / "m" / "0.png", expected, "L")
    else:
        image = expected.astype(np.uint8) * 255
        image = np.repeat(image[..., None], 3, axis=2) if form == "rgb" else image
        cv2.imwrite(str(tmp_path / "m" / f"0.{'jpg' if form == 'jpg' else 'png'}"), image)
    assert (stack(open_masks(tmp_path / "m", CLIP))[0] == expected).all()
    # Complete masks of one object may be beside visible ones of many.
    if form != "0/1":
        assert (stack(open_masks(tmp_path / "m", CLIP, object_id=3, kind="complete"))[0] == expected).all()
        for kind in ("visible", "others"):
            with pytest.raises(DatasetError, match="black and white and does not number objects"):
                stack(open_masks(tmp_path / "m", CLIP, object_id=3, kind=kind))


def test_images_that_are_no_masks(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    (tmp_path / "m").mkdir()
    cv2.imwrite(str(tmp_path / "m" / "0.png"), colours)
    with pytest.raises(DatasetError, match="has colours or is of another depth"):
        stack(open_masks(tmp_path / "m", CLIP))
    (tmp_path / "m" / "0.png").write_bytes(b"no image")
    with pytest.raises(MediaError, match=r"cannot read mask .*0\.png"):
        stack(open_masks(tmp_path / "m", CLIP))


def test_one_image_may_stand_for_all_frames(tmp_path):
    write_indices(tmp_path / "bar.png", [[255, 0]], "L")
    assert len(list(islice(open_masks(tmp_path / "bar.png", CLIP, kind="any", repeats=True).masks(), 5))) == 5
    assert len(stack(open_masks(tmp_path / "bar.png", CLIP, kind="any"))) == 1


def test_a_video_of_masks(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "m.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    expected = np.zeros((3, 48, 64), dtype=bool)
    for number, mask in enumerate(expected):
        mask[8:24, 16 * number : 16 * number + 16] = True
        writer.write(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    writer.release()
    found = stack(open_masks(tmp_path / "m.mp4", CLIP))
    assert found.shape == expected.shape
    assert (found != expected).mean() < 0.01
    with pytest.raises(DatasetError, match="video of masks and does not number objects"):
        open_masks(tmp_path / "m.mp4", CLIP, object_id=1)


def test_folders_of_several_videos_and_nothing(tmp_path):
    for name in ("a", "b"):
        write_indices(tmp_path / name / "0.png", [[1]])
    with pytest.raises(DatasetError, match="must hold the masks of one video"):
        open_masks(tmp_path, CLIP)
    with pytest.raises(ValueError, match="kind must be one of visible, complete, others, any"):
        open_masks(tmp_path / "a", CLIP, kind="hidden")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_masks(tmp_path / "nowhere", CLIP)


@pytest.fixture
def tracks(tmp_path):
    """A json of two videos; that of the clip has two objects and a crowd."""

    def masks(*columns):
        found = []
        for column in columns:
            mask = np.zeros((4, 6), dtype=bool)
            if column is not None:
                mask[:, column] = True
            found.append(None if column is None else encode_mask(mask))
        return found

    video = {"width": 6, "height": 4, "length": 3}
    content = {
        "videos": [
            {"id": 1, "file_names": [f"other/{n}.png" for n in range(3)], **video},
            {"id": 2, "name": "clip", "file_names": [f"x/{n}.png" for n in range(3)], **video},
        ],
        "categories": [{"id": 5, "name": "dog"}, {"id": 6, "name": "person"}],
        "annotations": [
            {"id": 10, "video_id": 2, "category_id": 5, "segmentations": masks(0, None, 2)},
            {
                "id": 11,
                "video_id": 2,
                "category_id": 6,
                "segmentations": masks(1, 1, 1),
                "amodal_segmentations": masks(1, 2, 3),
            },
            {"id": 12, "video_id": 2, "category_id": 6, "segmentations": masks(5, 5, 5), "iscrowd": 1},
            {"id": 13, "video_id": 1, "category_id": 5, "segmentations": masks(4, 4, 4)},
        ],
    }
    path = tmp_path / "tracks.json"
    path.write_text(json.dumps(content))
    return path


def columns(masks):
    return [np.flatnonzero(mask[0]).tolist() for mask in masks.masks()]


def test_tracks_of_a_json(tracks):
    assert columns(open_masks(tracks, CLIP, object_id=10)) == [[0], [], [2]]
    assert columns(open_masks(tracks, CLIP, object_id=11, kind="complete")) == [[1], [2], [3]]
    assert columns(open_masks(tracks, CLIP, object_id=10, kind="complete")) == [[0], [], [2]]
    assert columns(open_masks(tracks, CLIP, object_id=10, kind="others")) == [[1], [1], [1]]
    assert columns(open_masks(tracks, CLIP, kind="any")) == [[0, 1], [1], [1, 2]]
    assert columns(open_masks(tracks, CLIP, video="other")) == [[4], [4], [4]]
    assert columns(open_masks(tracks, CLIP, video="other", object_id=13, kind="others")) == [[], [], []]
    found = read_tracks(tracks, "clip")
    assert [(one.number, one.category, one.area()) for one in found.objects] == [(10, "dog", 8), (11, "person", 12)]
    assert (found.size, found.length) == ((4, 6), 3)


def test_tracks_that_cannot_be_chosen(tracks):
    with pytest.raises(DatasetError, match=r"the objects 10 \(dog\), 11 \(person\): choose one"):
        open_masks(tracks, CLIP)
    with pytest.raises(DatasetError, match=r"the objects 10 \(dog\), 11"):
        open_masks(tracks, CLIP, object_id=13)
    with pytest.raises(DatasetError, match="has no video 'film'; it has other, clip"):
        open_masks(tracks, Clip(Path("film.mp4")), object_id=10)
    tracks.write_text("{")
    with pytest.raises(DatasetError, match="not valid json"):
        open_masks(tracks, CLIP)
