import json
import zipfile

import numpy as np
import pytest
import torch

from instseg_d2.data.instance_maps import empty_map, read_bitmask
from instseg_d2.data.run_lengths import decode_mask
from instseg_d2.evaluation.mots_files import BitmaskFolder
from instseg_d2.evaluation.video_submissions import (
    TrackRecorder,
    mots_rle_frame,
    write_mots_bitmask,
    write_mots_rles,
    write_youtube_vis,
)

LEFT, RIGHT = (0, 0, 20, 30), (50, 10, 70, 40)


def test_tracks_of_frames(tracked):
    """The mean of the scores, the class of most frames, null where there is nothing; id 0 is no track."""
    recorder = TrackRecorder()
    recorder.add(0, tracked((4, LEFT, 1, 0.5), (0, RIGHT, 0, 0.9)))
    recorder.add(1, tracked())
    recorder.add(2, tracked((9, RIGHT, 0, 0.25), (4, LEFT, 2, 1.0)))
    recorder.add(3, tracked((4, RIGHT, 2, 0.75)))
    first, second = recorder.results(7, 5, {0: 3, 1: 8, 2: 20})
    assert (first["video_id"], first["category_id"], first["score"]) == (7, 20, 0.75)
    assert [mask is not None for mask in first["segmentations"]] == [True, False, True, True, False]
    assert (second["category_id"], second["score"]) == (3, 0.25)
    shown = decode_mask(first["segmentations"][3], 60, 80)
    assert shown[10:40, 50:70].all()
    assert shown.sum() == 600
    json.dumps(first)


def test_of_equally_many_frames_the_surer_class(tracked):
    recorder = TrackRecorder()
    for frame, (category, score) in enumerate([(2, 0.5), (1, 0.9), (1, 0.1), (2, 0.6)]):
        recorder.add(frame, tracked((1, LEFT, category, score)))
    assert recorder.results(1, 4, {1: 1, 2: 2})[0]["category_id"] == 2


def test_masks_without_a_pixel_are_no_sighting(tracked):
    recorder = TrackRecorder()
    recorder.add(0, tracked((1, (5, 5, 5, 9), 0, 0.5)))
    assert recorder.results(1, 2, {0: 1}) == []


def test_frames_that_cannot_be(tracked):
    recorder = TrackRecorder()
    with pytest.raises(ValueError, match=r"\[3\] occur more than once"):
        recorder.add(0, tracked((3, LEFT, 0, 0.5), (3, RIGHT, 0, 0.5), (0, LEFT, 0, 0.1), (0, LEFT, 0, 0.1)))
    instances = tracked((3, LEFT, 0, 0.5))
    instances.remove("pred_ids")
    with pytest.raises(ValueError, match="no pred_ids: evaluate a model that tracks"):
        recorder.add(0, instances)
    recorder.add(4, tracked((3, LEFT, 0, 0.5)))
    with pytest.raises(ValueError, match="video 1 has 4 frames, but there are masks in frame 4"):
        recorder.results(1, 4, {0: 1})


def test_archive_for_youtube_vis(tmp_path):
    results = [{"video_id": 1, "category_id": 2, "score": 0.5, "segmentations": [None]}]
    path = write_youtube_vis(results, tmp_path / "new" / "folder")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["results.json"]
        assert json.loads(archive.read("results.json")) == results
    assert json.loads((path.parent / "results.json").read_text()) == results


def test_archive_for_bdd100k(tmp_path):
    frames = [mots_rle_frame("clip", number, [], (4, 6)) for number in range(2)]
    assert frames[1]["name"] == "clip-0000002.jpg"
    path = write_mots_rles(frames, tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["rles.json"]
        assert json.loads(archive.read("rles.json")) == {"frames": frames}


def test_bitmasks_of_empty_frames_are_zeros(tmp_path):
    paths = [write_mots_bitmask(tmp_path, "clip", frame, empty_map(4, 6)) for frame in range(2)]
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "clip/clip-0000001.png",
        "clip/clip-0000002.png",
    ]
    assert BitmaskFolder(tmp_path).frames == {"clip": [0, 1]}
    read = read_bitmask(paths[0])
    assert len(read) == 0
    np.testing.assert_array_equal(read.to_bitmask(), np.zeros((4, 6, 4)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_instances_on_a_gpu(tracked):
    recorder = TrackRecorder()
    recorder.add(0, tracked((1, LEFT, 0, 0.5)).to("cuda"))
    assert len(recorder.results(1, 1, {0: 1})) == 1
