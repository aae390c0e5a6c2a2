import json
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.data import DatasetError
from instseg_d2.data.instance_maps import map_of_labels, read_bitmask, read_scalabel
from instseg_d2.data.run_lengths import decode_mask
from instseg_d2.engine import Predictor, VideoPredictor
from instseg_d2.engine.coco_file import CocoWriter
from instseg_d2.engine.video_files import AnnotatedVideo, MotsFolder, TrackFile
from instseg_d2.engine.video_predictor import follow
from instseg_d2.evaluation.mots import evaluate_mots
from instseg_d2.evaluation.mots_files import open_frames
from instseg_d2.evaluation.track_ap import track_ap
from instseg_d2.evaluation.video_submissions import TrackRecorder


@pytest.fixture
def run(color_tracker, color_frames):
    """Takes the five frames through outputs; returns what the model found."""

    def take(*outputs):
        found = []

        class Keep:
            def add(self, frame, instances):
                found.append(instances)

            def close(self):
                pass

        list(follow(VideoPredictor(Predictor(color_tracker)), color_frames, [*outputs, Keep()]))
        return found

    return take


def test_tracks_of_youtube_vis(tmp_path, clip, metadata, run, color_frames):
    output = TrackFile(tmp_path / "tracks.json", clip, metadata, video_id=4)
    run(output)
    content = json.loads((tmp_path / "tracks.json").read_text())
    (video,) = content["videos"]
    assert (video["id"], video["name"], video["length"]) == (4, "colors", 5)
    assert (video["height"], video["width"], len(video["file_names"])) == (24, 32, 5)
    assert content["categories"] == [{"id": 10, "name": "blue"}, {"id": 20, "name": "green"}, {"id": 30, "name": "red"}]
    blue, green, red = content["annotations"]
    assert [(one["instance_id"], one["category_id"], one["video_id"]) for one in (blue, green, red)] == [
        (1, 10, 4),
        (2, 20, 4),
        (3, 30, 4),
    ]
    assert blue["bboxes"] == [[0, 0, 4, 4], [2, 0, 4, 4], None, [6, 0, 4, 4], None]
    assert blue["areas"] == [16, 16, None, 16, None]
    assert blue["score"] == pytest.approx(0.9)
    assert [mask is None for mask in green["segmentations"]] == [True, False, False, True, True]
    assert np.array_equal(decode_mask(blue["segmentations"][3], 24, 32), color_frames[3][..., 0] > 128)
    assert len(output) == 3
    assert list(tmp_path.iterdir()) == [tmp_path / "tracks.json"]


def test_tracks_equal_those_for_the_server(tmp_path, clip, metadata, run):
    found = run(TrackFile(tmp_path / "tracks.json", clip, metadata))
    recorder = TrackRecorder()
    for number, instances in enumerate(found):
        recorder.add(number, instances)
    expected = recorder.results(1, len(found), {0: 10, 1: 20, 2: 30})
    written = json.loads((tmp_path / "tracks.json").read_text())["annotations"]
    assert [{key: one[key] for key in expected[0]} for one in written] == [
        {**one, "score": pytest.approx(one["score"])} for one in expected
    ]


def test_what_is_written_is_perfect_for_the_evaluators(tmp_path, clip, metadata, run):
    run(TrackFile(tmp_path / "tracks.json", clip, metadata), MotsFolder(tmp_path, "colors", metadata))
    path, names = tmp_path / "tracks.json", metadata.thing_classes
    assert track_ap(path, path)["AP"] == pytest.approx(100)
    found, truth = open_frames(tmp_path / "rles", names), open_frames(tmp_path / "bitmasks", names)
    figures = evaluate_mots(found, truth, names)["mots"]
    assert (figures["mMOTSA"], figures["IDSw"]) == (pytest.approx(100), 0)


def test_a_track_has_the_class_of_most_frames(tmp_path, clip, metadata):
    output = TrackFile(tmp_path / "tracks.json", clip, metadata)
    for label in (0, 1, 1):
        found = Instances((8, 8), pred_boxes=Boxes(torch.tensor([[1.0, 1, 3, 5]])), scores=torch.tensor([0.5]))
        found.pred_classes, found.pred_ids = torch.tensor([label]), torch.tensor([7])
        output.add(np.zeros((8, 8, 3), np.uint8), found)
    output.close()
    (track,) = json.loads((tmp_path / "tracks.json").read_text())["annotations"]
    assert (track["instance_id"], track["category_id"]) == (7, 20)
    # Without masks, boxes remain.
    assert (track["segmentations"], track["areas"]) == ([None] * 3, [8.0] * 3)


def test_without_a_frame_an_older_file_stays(tmp_path, clip):
    path = tmp_path / "tracks.json"
    path.write_text("mine")
    TrackFile(path, clip).close()
    assert path.read_text() == "mine"
    MotsFolder(tmp_path / "mots", "colors").close()
    AnnotatedVideo(tmp_path / "colors.mp4", 10).close()
    assert [one.name for one in tmp_path.iterdir()] == ["tracks.json"]


def test_memory_grows_by_little_for_each_mask(tmp_path, clip):
    output = TrackFile(tmp_path / "tracks.json", clip)
    rng = np.random.default_rng(0)
    found = Instances((24, 32), pred_boxes=Boxes(torch.rand(3, 4)), scores=torch.rand(3))
    found.pred_classes, found.pred_ids = torch.zeros(3, dtype=torch.int64), torch.arange(1, 4)
    found.pred_masks = torch.from_numpy(rng.random((3, 24, 32)) > 0.5)
    frame = np.zeros((24, 32, 3), np.uint8)
    output.add(frame, found)
    tracemalloc.start()
    for _ in range(400):
        output.add(frame, found)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    output.close()
    # Run lengths of such a mask are 500 bytes.
    assert grown < 1200 * 40
    assert len(json.loads((tmp_path / "tracks.json").read_text())["annotations"][2]["areas"]) == 401


def test_mots_of_bdd100k(tmp_path, metadata, run):
    found = run(MotsFolder(tmp_path, "colors", metadata))
    frames = read_scalabel(tmp_path / "rles" / "colors.json")
    assert [(one["videoName"], one["frameIndex"]) for one in frames] == [("colors", number) for number in range(5)]
    masks = sorted(path.name for path in (tmp_path / "bitmasks" / "colors").iterdir())
    assert masks == [f"colors-{number:07d}.png" for number in range(1, 6)]
    for name, frame, instances in zip(masks, frames, found, strict=True):
        painted = read_bitmask(tmp_path / "bitmasks" / "colors" / name)
        labels = map_of_labels(frame["labels"], metadata.thing_classes, (24, 32), name)
        for one in (painted, labels):
            assert one.ids.tolist() == instances.pred_ids.tolist()
            assert one.classes.tolist() == instances.pred_classes.tolist()
        assert np.array_equal(painted.index, labels.index)
        assert [label["score"] for label in frame["labels"]] == pytest.approx(instances.scores.tolist())
    # Green has the higher score and the pixels that it shares with red.
    second = read_bitmask(tmp_path / "bitmasks" / "colors" / masks[1])
    assert np.bincount(second.index.ravel()).tolist()[1:] == [16, 16, 81 - 9]


def test_mots_need_masks_and_ids_that_fit(tmp_path, color_tracker, color_frames):
    found = VideoPredictor(Predictor(color_tracker)).step(color_frames[0])[:1]
    output = MotsFolder(tmp_path, "colors")
    output.add(color_frames[0], found)
    found.pred_ids = torch.tensor([65536])
    with pytest.raises(DatasetError, match="frame 1 of 'colors' has the track 65536"):
        output.add(color_frames[0], found)
    found.remove("pred_masks")
    with pytest.raises(DatasetError, match="boxes only"):
        output.add(color_frames[0], found)
    output.close()
    (frame,) = read_scalabel(tmp_path / "rles" / "colors.json")
    assert frame["labels"][0]["category"] == "class 0"


def test_the_video_has_each_track_in_one_color(tmp_path, run):
    run(AnnotatedVideo(tmp_path / "colors.mp4", 5, ["blue", "green", "red"]))
    capture = cv2.VideoCapture(str(tmp_path / "colors.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (5, 5)
    with pytest.raises(OSError, match="cannot write video"):
        AnnotatedVideo(tmp_path / "nowhere" / "colors.mp4", 5).write(np.zeros((24, 32, 3), np.uint8))


def test_coco_file(tmp_path, metadata, color_tracker, color_frames):
    writer = CocoWriter(tmp_path / "predictions.json", metadata)
    writer.add("a.png", (24, 32), VideoPredictor(Predictor(color_tracker)).step(color_frames[0]))
    writer.write()
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert [one["category_id"] for one in content["annotations"]] == [10, 20]
    assert content["categories"] == [{"id": 10, "name": "blue"}, {"id": 20, "name": "green"}]
