import json
import math

import pytest
from detectron2.utils import comm

from instseg_d2.data import DatasetError
from instseg_d2.evaluation import VideoSelection, YouTubeVISEvaluator

LEFT, RIGHT = (0, 0, 20, 30), (50, 10, 70, 40)


@pytest.fixture
def scene(tracks):
    """Two videos with three objects."""
    scene = tracks(3, 2)
    scene.annotate([LEFT, LEFT, LEFT])
    scene.annotate([RIGHT, None, RIGHT], category=20)
    scene.annotate([LEFT, RIGHT], category=20, video=2)
    return scene


@pytest.fixture
def name(scene, video_dataset, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(scene.truth))
    return video_dataset(
        json_file=str(tmp_path / "truth.json"),
        thing_classes=["leaf", "cup", "pear"],
        thing_dataset_id_to_contiguous_id={20: 0, 3: 1, 8: 2},
    )


def run(evaluator, frames):
    """`frames`: (video, frame, instances) of videos of 3 and 2 frames."""
    evaluator.reset()
    for video, frame, instances in frames:
        inputs = {"video_id": video, "frame_index": frame, "video_length": {1: 3, 2: 2}[video], "image_id": 1}
        evaluator.process([inputs], [{"instances": instances}])
    return evaluator.evaluate()


@pytest.fixture
def perfect(tracked):
    return [
        (1, 0, tracked((1, LEFT, 1, 0.9), (2, RIGHT, 0, 0.8))),
        (1, 1, tracked((1, LEFT, 1, 0.9), (0, RIGHT, 0, 0.8))),
        (1, 2, tracked((2, RIGHT, 0, 0.8), (1, LEFT, 1, 0.9))),
        (2, 0, tracked((1, LEFT, 0, 0.7))),
        (2, 1, tracked((1, RIGHT, 0, 0.7))),
    ]


def test_perfect_predictions(name, perfect, tmp_path):
    evaluator = YouTubeVISEvaluator(name, output_dir=str(tmp_path / "out"))
    figures = run(evaluator, perfect)["segm"]
    assert (figures["AP"], figures["AR1"], figures["AP-leaf"]) == pytest.approx((100, 100, 100))
    assert math.isnan(figures["AP-pear"])
    written = json.loads((tmp_path / "out" / "youtube_vis" / "results.json").read_text())
    assert [(one["video_id"], one["category_id"], round(one["score"], 6)) for one in written] == [
        (1, 3, 0.9),
        (1, 20, 0.8),
        (2, 20, 0.7),
    ]
    assert (tmp_path / "out" / "youtube_vis" / "results.zip").is_file()


def test_changed_identities_cost_precision(name, perfect, tracked):
    perfect[2] = (1, 2, tracked((2, LEFT, 1, 0.9), (1, RIGHT, 1, 0.9)))
    figures = run(YouTubeVISEvaluator(name), perfect)["segm"]
    # the cup's track is the cup in two frames of three and the leaf in one: IoU 2 / 4, with areas that are all equal
    assert figures["AP-cup"] == pytest.approx(10)


def test_reset_forgets(name, perfect):
    evaluator = YouTubeVISEvaluator(name)
    first = run(evaluator, perfect)["segm"]
    assert run(evaluator, perfect)["segm"] == pytest.approx(first, nan_ok=True)
    assert run(evaluator, [])["segm"]["AP"] == 0


def test_part_of_the_frames(name, perfect, tracked):
    perfect[0] = (1, 0, tracked((1, RIGHT, 1, 0.9), (2, LEFT, 0, 0.8)))
    selection = VideoSelection(part=(0.4, 1), videos=["clip1"])
    assert run(YouTubeVISEvaluator(name, selection=selection), perfect)["segm"]["AP"] == pytest.approx(100)
    assert run(YouTubeVISEvaluator(name), perfect)["segm"]["AP"] < 100


def test_a_set_that_only_the_server_can_evaluate(scene, name, perfect, tmp_path):
    del scene.truth["annotations"]
    (tmp_path / "truth.json").write_text(json.dumps(scene.truth))
    assert run(YouTubeVISEvaluator(name, output_dir=str(tmp_path)), perfect) == {}
    assert len(json.loads((tmp_path / "youtube_vis" / "results.json").read_text())) == 3


def test_several_processes(name, perfect, monkeypatch):
    """Each has whole videos; the main process has them all in the end."""
    parts = []
    for video in (1, 2):
        evaluator = YouTubeVISEvaluator(name)
        with monkeypatch.context() as patched:
            patched.setattr(comm, "gather", lambda data, dst=0: parts.append(data) or [data])
            run(evaluator, [frame for frame in perfect if frame[0] == video])
    evaluator = YouTubeVISEvaluator(name)
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: parts)
    assert run(evaluator, [])["segm"]["AP"] == pytest.approx(100)
    parts.append(parts[0])
    with pytest.raises(ValueError, match="frames of video 1 came to several processes"):
        run(evaluator, [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert run(evaluator, perfect) is None


def test_a_set_without_a_file(video_dataset):
    with pytest.raises(DatasetError, match="has no 'json_file', which holds the truth"):
        YouTubeVISEvaluator(video_dataset(thing_classes=["cup"]))
