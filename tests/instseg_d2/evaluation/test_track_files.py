import json
import math

import pytest

from instseg_d2.data import DatasetError
from instseg_d2.evaluation.track_ap import track_ap
from instseg_d2.evaluation.track_files import read_results, read_truth
from instseg_d2.evaluation.video_selection import VideoSelection

BOX = (10, 10, 30, 20)


@pytest.fixture
def scene(tracks):
    scene = tracks(2, 3)
    scene.annotate([BOX, None])
    scene.find([BOX, BOX])
    return scene


@pytest.fixture
def read_results_of(tmp_path):
    def read(content, truth):
        path = tmp_path / "labelled.json"
        path.write_text(json.dumps(content))
        return read_results(path, truth)

    return read


def test_paths_and_contents_give_the_same(scene, tmp_path):
    truth, results, labelled = (tmp_path / name for name in ("truth.json", "results.json", "labelled.json"))
    truth.write_text(json.dumps(scene.truth))
    results.write_text(json.dumps(scene.results))
    labelled.write_text(json.dumps({**scene.truth, "annotations": scene.results}))
    expected = track_ap(scene.results, scene.truth)
    assert expected["AP50"] == pytest.approx(100)
    for path in (results, str(results), labelled):
        assert str(track_ap(path, truth)) == str(expected)


def test_tracks_that_are_never_seen_take_no_part(scene):
    scene.annotate([None, None], category=8)
    assert len(read_truth(scene.truth).tracks) == 1
    assert math.isnan(track_ap(scene.results, scene.truth)["AP-pear"])


def test_a_set_without_annotations(scene):
    del scene.truth["annotations"]
    assert not read_truth(scene.truth).has_annotations
    assert read_truth({**scene.truth, "annotations": []}).has_annotations


def test_ids_of_videos_are_any_numbers(scene):
    scene.truth["videos"][0]["id"] = scene.truth["annotations"][0]["video_id"] = scene.results[0]["video_id"] = 4000
    assert track_ap(scene.results, scene.truth)["AP50"] == pytest.approx(100)


def test_videos_and_categories_of_a_results_file_are_found_by_name(scene, read_results_of):
    """A file of `tools/predict.py` numbers its videos from 1 on, and may have other categories first."""
    video, found = scene.truth["videos"][0], scene.results[0]
    video["name"] = "street"
    names = {one["id"]: one["name"] for one in scene.truth["categories"]}
    labelled = {
        "videos": [{**video, "id": 77}],
        "categories": [{"id": 900, "name": names[found["category_id"]]}],
        "annotations": [{**found, "video_id": 77, "category_id": 900}],
    }
    truth = read_truth(scene.truth)
    (track,) = read_results_of(labelled, truth)
    assert (track["video_id"], track["category_id"]) == (video["id"], found["category_id"])
    # Of a video with another name the number counts, and here it is none of the truth's.
    with pytest.raises(DatasetError, match="video_id 77 is none of the truth's"):
        read_results_of({**labelled, "videos": [{**video, "id": 77, "name": "lake", "file_names": ["a/1.jpg"]}]}, truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_id": 9}, "track 0: video_id 9 is none of the truth's: 1, 2"),
        ({"category_id": 4}, "track 0: category_id 4 is none of the truth's: 3, 8, 20"),
        ({"score": "high"}, "track 0: 'score' is 'high'"),
        ({"score": float("nan")}, "track 0: 'score' is nan"),
        ({"segmentations": [None]}, "track 0: 1 'segmentations', but video 1 has 2 frames"),
        ({"segmentations": None}, "track 0: no list of 'segmentations'"),
        ({"segmentations": [None, {"size": [5, 5], "counts": "1"}]}, "track 0, frame 1: no mask that can be read"),
        ({"segmentations": [{"size": [60, 80]}, None]}, "track 0, frame 0: no mask that can be read"),
    ],
)
def test_tracks_that_do_not_fit(scene, change, message):
    with pytest.raises(DatasetError, match=f"the results: {message}"):
        track_ap([{**scene.results[0], **change}], scene.truth)


def test_files_of_another_form(scene, tmp_path):
    truth = read_truth(scene.truth)
    for content, message in (
        ({"results": []}, "a results file is a list of tracks, not dict"),
        ([3], "track 0: int instead of an object"),
        ([{"video_id": 1}], "track 0: no 'category_id', 'score', 'segmentations'"),
    ):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(content))
        with pytest.raises(DatasetError, match=f"results.json: {message}"):
            read_results(path, truth)
    with pytest.raises(DatasetError, match="no annotation file"):
        read_results(tmp_path / "absent.json", truth)
    scene.truth["annotations"][0]["segmentations"].append(None)
    with pytest.raises(DatasetError, match="the truth cannot be used"):
        read_truth(scene.truth)


def test_nothing_is_selected(scene):
    with pytest.raises(DatasetError, match=r"no frame lies in the part \(0, 0.1\) of 2 videos"):
        read_truth(scene.truth, VideoSelection((0, 0.1)))
    with pytest.raises(DatasetError, match="no video 5 among the 2"):
        read_truth(scene.truth, VideoSelection(videos=[5]))
    # results of other videos are checked all the same, and left out
    chosen = read_truth(scene.truth, VideoSelection(videos=["clip2"]))
    assert read_results(scene.results, chosen) == []
