import copy

import cv2
import numpy as np
import pytest

from instseg_d2.data import validate_coco
from instseg_d2.data.checks import check_dataset

_MASK = {"size": [40, 60], "counts": [1620] + [12, 28] * 9 + [12, 408]}
_CONTENT = {
    "categories": [{"id": 1, "name": "cup"}],
    "videos": [
        {"id": 5, "height": 40, "width": 60, "length": 3, "file_names": ["v/0.png", "v/1.png", "v/2.png"]},
        {"id": 6, "height": 40, "width": 60, "length": 1, "file_names": ["w/0.png"]},
    ],
    "annotations": [
        {
            "id": 1,
            "video_id": 5,
            "category_id": 1,
            "iscrowd": 0,
            "segmentations": [_MASK, None, _MASK],
            "bboxes": [[40, 20, 10, 12], None, [40, 20, 10, 12]],
            "areas": [120, None, 120],
        }
    ],
}


@pytest.fixture
def content():
    """Two videos of three frames and of one, with one track in the first."""
    return copy.deepcopy(_CONTENT)


def found(content, **options):
    return {problem.kind: problem for problem in check_dataset(content, **options).problems}


def test_sound_videos(content):
    problems = found(content)
    assert set(problems) == {"videos-without-tracks"}
    assert problems["videos-without-tracks"].example == "video 6"
    lines = check_dataset(content).summary
    assert lines[0] == "2 videos"
    assert lines[1].startswith("4 frames, 2 without instances; all 40 x 60")
    assert lines[2].startswith("1 tracks; masks: 0 of polygons, 2 of run lengths, 0 missing")


def test_annotations_may_be_withheld(content):
    content["annotations"] = None
    assert set(found(content)) == {"no-annotations", "videos-without-tracks"}
    assert not any(problem.fatal for problem in found(content).values())


def setting(*path_and_value):
    *path, key, value = path_and_value

    def change(content):
        for step in path:
            content = content[step]
        content[key] = value

    return change


TRACK = ("annotations", 0)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (setting("categories", None), "missing-key", "no list 'categories'"),
        (setting("videos", 0, "id", "5"), "bad-video", "videos[0] has no integer 'id'"),
        (setting("videos", 0, "length", 4), "bad-video", "video 5: 'length' is 4, but there are 3 'file_names'"),
        (setting("videos", 0, "file_names", []), "bad-video", "video 5: 'file_names' is []"),
        (setting("videos", 1, "width", 0), "bad-video", "video 6: 'width' is 0"),
        (setting("videos", 1, "id", 5), "duplicate-video-id", "video id 5 (videos[1]) occurs again"),
        (setting(*TRACK, "segmentations", None), "bad-track", "annotations[0] (id 1)"),
        (lambda content: content["annotations"][0].pop("video_id"), "bad-track", "no 'video_id'"),
        (lambda content: content["annotations"].append(content["annotations"][0]), "duplicate-annotation-id", "again"),
        (setting(*TRACK, "video_id", 7), "unknown-video", "annotation 1 of video 7"),
        (setting(*TRACK, "category_id", 2), "unknown-category", "category_id 2 is not in 'categories' [1]"),
        (setting(*TRACK, "segmentations", [_MASK]), "track-length", "1 'segmentations' for 3 frames"),
        (setting(*TRACK, "bboxes", [None]), "track-length", "1 'bboxes' for 3 frames"),
        (setting(*TRACK, "bboxes", 2, [1, 2, 3]), "bad-box", "annotation 1 of video 5, frame 2: 'bbox' is [1, 2, 3]"),
        (
            setting(*TRACK, "segmentations", 2, {"size": [60, 40], "counts": [2400]}),
            "rle-size",
            "annotation 1 of video 5, frame 2: the mask is [60, 40], the image [40, 60]",
        ),
        (
            setting(*TRACK, "segmentations", 2, {"size": [40, 60], "counts": [2400]}),
            "empty-mask",
            "annotation 1 of video 5, frame 2",
        ),
        (setting(*TRACK, "bboxes", 0, [0, 0, 9, 9]), "box-elsewhere", "annotation 1 of video 5, frame 0"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_fault_is_told_with_its_place(content, change, kind, words):
    change(content)
    problem = found(content)[kind]
    assert problem.fatal
    assert words in problem.example


def test_track_that_is_never_seen_is_a_remark(content):
    content["annotations"][0].update(segmentations=[None] * 3, bboxes=[None] * 3, areas=[None] * 3)
    assert not found(content)["empty-track"].fatal


def test_frames_are_looked_at(content, tmp_path):
    rng = np.random.default_rng(0)
    for folder, frames in (("v", 3), ("w", 1)):
        (tmp_path / folder).mkdir()
        for frame in range(frames):
            cv2.imwrite(str(tmp_path / folder / f"{frame}.png"), rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    assert set(found(content, image_root=tmp_path)) == {"videos-without-tracks"}
    (tmp_path / "v/1.png").unlink()
    problems = found(content, image_root=tmp_path)
    assert problems["missing-image-file"].example == f"frame 1 of video 5: no file {tmp_path / 'v/1.png'}"
    content["videos"].reverse()
    assert set(found(content, image_root=tmp_path, limit=1)) == {"videos-without-tracks"}


def test_coco_reader_says_what_the_file_is(content):
    (problem,) = [problem for problem in validate_coco(content) if problem.kind == "missing-key"]
    assert problem.example.endswith("(it looks like YouTube-VIS)")
