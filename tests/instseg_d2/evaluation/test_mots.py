import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm

from instseg_d2.data import DatasetError, register_bdd100k, register_youtube_vis
from instseg_d2.data.bdd100k_categories import BDD100K_CLASSES
from instseg_d2.data.instance_maps import InstanceMap, empty_map, paint, write_bitmask
from instseg_d2.data.run_lengths import decode_mask
from instseg_d2.data.synthetic.video_set import write_occvideo
from instseg_d2.evaluation import VideoSelection, YouTubeVISEvaluator
from instseg_d2.evaluation.mots import MOTSEvaluator, evaluate_mots, super_classes_of
from instseg_d2.evaluation.mots_files import BitmaskFolder, RleFrames, open_frames
from instseg_d2.evaluation.video_submissions import mots_rle_frame

CLASSES = ["cup", "pear", "leaf"]
LEFT, RIGHT, MIDDLE = (0, 0, 20, 30), (50, 10, 70, 40), (15, 0, 35, 30)


@pytest.fixture
def as_map(tracked):
    """The annotation behind (identity, box, class) triples, which do not overlap."""

    def make(*objects):
        instances = tracked(*((*one, 1.0) for one in objects))
        columns = (getattr(instances, name).numpy() for name in ("pred_masks", "scores", "pred_ids", "pred_classes"))
        return paint(*columns)

    return make


@pytest.fixture
def truth(as_map, tmp_path):
    """A folder of bitmasks: two videos of 4 and 2 frames, numbered from 3 on."""
    objects = {"a": [((1, LEFT, 0), (300, RIGHT, 2))] * 3 + [((1, LEFT, 0),)], "b": [((1, RIGHT, 1),)] * 2}
    for video, frames in objects.items():
        (tmp_path / "truth" / video).mkdir(parents=True)
        for number, frame in enumerate(frames, start=3):
            write_bitmask(tmp_path / "truth" / video / f"{video}-{number:07d}.png", as_map(*frame))
    return tmp_path / "truth"


@pytest.fixture
def name(truth, video_dataset):
    return video_dataset(json_file=str(truth.parent / "absent"), bitmask_root=str(truth), thing_classes=CLASSES)


@pytest.fixture
def perfect(tracked):
    both = tracked((1, LEFT, 0, 0.9), (2, RIGHT, 2, 0.8))
    frames = [("a", number, both) for number in range(3)] + [("a", 3, tracked((1, LEFT, 0, 0.9)))]
    return frames + [("b", number, tracked((1, RIGHT, 1, 0.7))) for number in range(2)]


def run(evaluator, frames):
    evaluator.reset()
    for video, frame, instances in frames:
        evaluator.process([{"video_name": video, "frame_index": frame}], [{"instances": instances}])
    return evaluator.evaluate()


def test_perfect_predictions(name, truth, perfect, tmp_path):
    results = run(MOTSEvaluator(name, output_dir=str(tmp_path), bitmasks=True), perfect)
    expected = {"mMOTSA": 100, "mMOTSP": 100, "mIDF1": 100, "IDSw": 0, "FP": 0, "FN": 0, "MT": 3, "MOTSA-OVERALL": 100}
    assert {key: results["mots"][key] for key in expected} == pytest.approx(expected)
    assert results["segm"]["AP"] == pytest.approx(100)
    # what was written holds the same, in either form
    for written in ("rles.json", "bitmasks"):
        figures = evaluate_mots(open_frames(tmp_path / "mots" / written, CLASSES), BitmaskFolder(truth), CLASSES)
        assert figures["mots"] == pytest.approx(results["mots"])
    frames = json.loads((tmp_path / "mots" / "rles.json").read_text())["frames"]
    assert [(one["videoName"], one["frameIndex"]) for one in frames][:2] == [("a", 2), ("a", 3)]
    assert (tmp_path / "mots" / "bitmasks" / "b" / "b-0000004.png").is_file()


def test_what_goes_wrong(name, perfect, tracked):
    perfect[1] = ("a", 1, tracked((5, LEFT, 0, 0.9), (0, RIGHT, 2, 0.8)))  # another id; no track, though detected
    perfect[5] = ("b", 1, tracked())
    results = run(MOTSEvaluator(name), perfect)
    found = {key: results["mots"][key] for key in ("IDSw", "FP", "FN", "MOTSA-cup", "MOTSA-pear", "MOTSA-leaf")}
    # there and back again
    assert found == pytest.approx(
        {"IDSw": 2, "FP": 0, "FN": 2, "MOTSA-cup": 50, "MOTSA-pear": 50, "MOTSA-leaf": 200 / 3}
    )
    assert results["mots"]["mMOTSA"] == pytest.approx((50 + 50 + 200 / 3) / 3)
    assert results["segm"]["AP-leaf"] == pytest.approx(100)
    assert results["segm"]["AP-pear"] == pytest.approx(100 * 51 / 101)


def test_a_pixel_goes_to_the_higher_score(name, perfect, tracked):
    """The duplicate has 5 of its 20 columns in common with the object, and takes them."""
    perfect[3] = ("a", 3, tracked((9, MIDDLE, 0, 0.95), (1, LEFT, 0, 0.9)))
    results = run(MOTSEvaluator(name, selection=VideoSelection((0.75, 1), ["a"])), perfect)
    assert results["mots"]["MOTSP-cup"] == pytest.approx(75)
    assert (results["mots"]["FP"], results["mots"]["FN"]) == (1, 0)


def test_selection_of_frames(name, perfect, tracked):
    perfect[0] = ("a", 0, tracked())
    half = run(MOTSEvaluator(name, selection=VideoSelection((0.5, 1))), perfect)["mots"]
    assert (half["FN"], half["mMOTSA"]) == (0, 100)
    assert run(MOTSEvaluator(name), perfect)["mots"]["FN"] == 2


def test_frames_that_were_not_predicted(name, perfect):
    with pytest.raises(DatasetError, match="no prediction for 1 of 2 frames of video b, such as frame 3"):
        run(MOTSEvaluator(name), perfect[:-1])
    with pytest.raises(DatasetError, match="has 2 frames of video b, but frame 7 was predicted"):
        run(MOTSEvaluator(name), [("b", 7, perfect[-1][2])])


def test_several_processes(name, perfect, monkeypatch):
    parts = []
    for video in ("a", "b"):
        evaluator = MOTSEvaluator(name, distributed=True)
        with monkeypatch.context() as patched:
            patched.setattr(comm, "gather", lambda data, dst=0: parts.append(data) or parts)
            patched.setattr(comm, "is_main_process", lambda: False)
            assert run(evaluator, [frame for frame in perfect if frame[0] == video]) is None
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: parts)
    assert run(MOTSEvaluator(name), [])["mots"]["mMOTSA"] == 100


def test_super_classes(truth, perfect, video_dataset):
    assert set(super_classes_of(BDD100K_CLASSES)) == {"human", "vehicle", "bike"}
    assert sorted(one for members in super_classes_of(BDD100K_CLASSES).values() for one in members) == sorted(
        BDD100K_CLASSES
    )
    assert super_classes_of(CLASSES) == {}
    name = video_dataset(bitmask_root=str(truth), thing_classes=CLASSES)
    evaluator = MOTSEvaluator(name, super_classes={"plant": ["pear", "leaf"]}, frames_task="segm_frames")
    results = run(evaluator, perfect)
    assert list(results) == ["mots", "segm_frames"]
    assert results["mots"]["MOTSA-plant"] == 100


def test_a_set_without_truth(video_dataset):
    with pytest.raises(DatasetError, match="has no truth: .* are not there"):
        MOTSEvaluator(video_dataset(thing_classes=CLASSES))
    with pytest.raises(DatasetError, match="has no truth: .* are absent"):
        MOTSEvaluator(video_dataset(thing_classes=CLASSES, json_file="absent"))


def frames_of(*maps, video="a"):
    return RleFrames(
        [mots_rle_frame(video, at, one.to_labels(CLASSES), one.index.shape) for at, one in enumerate(maps)], CLASSES
    )


def test_videos_and_sizes_that_do_not_fit(as_map):
    one = as_map((1, LEFT, 0))
    with pytest.raises(DatasetError, match="the frames has no video b"):
        evaluate_mots(frames_of(one, video="b"), frames_of(one), CLASSES)
    smaller = InstanceMap(one.index[:40], one.ids, one.classes, one.flags)
    with pytest.raises(DatasetError, match=r"frame 1 of video a: the prediction has \[height, width\] \[40, 80\]"):
        evaluate_mots(frames_of(one, smaller), frames_of(one, one), CLASSES)
    # a frame without instances fits every size
    assert evaluate_mots(frames_of(one, empty_map(7, 7)), frames_of(one, one), CLASSES)["mots"]["FN"] == 1
    with pytest.raises(DatasetError, match="no frame lies in the part"):
        evaluate_mots(frames_of(one), frames_of(one), CLASSES, selection=VideoSelection((0, 0.1)))
    with pytest.raises(DatasetError, match="no video c among the 1"):
        evaluate_mots(frames_of(one), frames_of(one), CLASSES, selection=VideoSelection(videos=["c"]))


@pytest.fixture(scope="module")
def occvideo(tmp_path_factory):
    """The same generated videos as data sets of both forms."""
    folder = tmp_path_factory.mktemp("occvideo") / "set"
    write_occvideo(folder, videos=2, frames=4, size=48, layouts=("ytvis", "mots"), progress=False)
    names = ("test_occvideo_tracks", "test_occvideo_mots")
    register_youtube_vis(names[0], folder / "ytvis" / "annotations.json", folder / "ytvis" / "JPEGImages")
    classes = MetadataCatalog.get(names[0]).thing_classes
    register_bdd100k(names[1], folder / "mots" / "rles", folder / "mots" / "images", classes=classes)
    yield names
    for one in names:
        DatasetCatalog.remove(one)
        MetadataCatalog.remove(one)


def annotated(record):
    """The annotation of a frame as if it had been predicted."""
    size, objects = (record["height"], record["width"]), record["annotations"]
    masks = [decode_mask(one["segmentation"], *size) for one in objects]
    return Instances(
        size,
        pred_masks=torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size)),
        scores=torch.linspace(0.5, 1, len(objects)),
        pred_classes=torch.tensor([one["category_id"] for one in objects], dtype=torch.int64),
        pred_ids=torch.tensor([one["instance_id"] for one in objects], dtype=torch.int64),
    )


def test_annotations_as_predictions(occvideo):
    """The records that the loaders read, given back as predictions, are perfect on both data sets."""
    for name, evaluator, task in (
        (occvideo[0], YouTubeVISEvaluator(occvideo[0]), "segm"),
        (occvideo[1], MOTSEvaluator(occvideo[1]), "mots"),
    ):
        records = DatasetCatalog.get(name)
        for record in records:
            evaluator.process(
                [{key: value for key, value in record.items() if key != "annotations"}],
                [{"instances": annotated(record)}],
            )
        results = evaluator.evaluate()
        if task == "segm":
            assert results["segm"]["AP"] == pytest.approx(100)
            assert results["segm"]["AR10"] == pytest.approx(100)
        else:
            figures = results["mots"]
            assert figures["MOTSA-OVERALL"] == figures["IDF1-OVERALL"] == figures["MOTSP-OVERALL"] == 100
            there = sum(not math.isnan(figures[f"MOTSA-{one}"]) for one in MetadataCatalog.get(name).thing_classes)
            assert figures["mMOTSA"] == pytest.approx(100 * there / 10)
            assert results["segm"]["AP"] == pytest.approx(100)
