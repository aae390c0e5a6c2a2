import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from instseg_d2.data.instance_maps import InstanceMap
from instseg_d2.data.run_lengths import encode_mask
from instseg_d2.evaluation.video_submissions import mots_rle_frame, write_mots_bitmask

CLASSES = ("dog", "cat")


def halves(*ids):
    """A frame of 8 x 10 pixels whose halves are two instances of one class each."""
    index = np.repeat(np.array([[1] * 5 + [2] * 5], np.int32), 8, axis=0)
    return InstanceMap(index, np.array(ids), np.array([0, 1]), np.zeros(2, np.int64))


@pytest.fixture
def ytvis(tmp_path):
    """Truth and results of a dog in two videos, in the second one wrong in its first half."""
    masks = [encode_mask(halves(1, 2).index == number) for number in (1, 2)]
    videos = [
        {"id": key, "name": f"clip{key}", "height": 8, "width": 10, "file_names": [f"{at}.jpg" for at in range(4)]}
        for key in (1, 2)
    ]
    tracks = [{"id": key, "video_id": key, "category_id": 1, "segmentations": [masks[0]] * 4} for key in (1, 2)]
    truth = {"videos": videos, "categories": [{"id": 1, "name": "dog"}], "annotations": tracks}
    results = [{**track, "score": 0.5} for track in tracks]
    results[1]["segmentations"] = [masks[1]] * 2 + [masks[0]] * 2
    for name, content in (("truth.json", truth), ("results.json", results)):
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path / "results.json", tmp_path / "truth.json"


@pytest.fixture
def mots(tmp_path):
    """Bitmasks of the truth, and the same as run lengths with scores and another identity in the last frame."""
    frames = []
    for at, ids in enumerate([(3, 4), (3, 4), (3, 9)]):
        write_mots_bitmask(tmp_path / "truth", "a", at, halves(1, 2))
        found = halves(*ids)
        frames.append(mots_rle_frame("a", at, found.to_labels(CLASSES, dict.fromkeys(ids, 0.5)), (8, 10)))
    (tmp_path / "found.json").write_text(json.dumps(frames))
    return tmp_path / "found.json", tmp_path / "truth"


def read(path, task):
    return json.loads(path.read_text())[task]


def test_tracks_of_youtube_vis(tool, ytvis, tmp_path):
    out = tmp_path / "figures.json"
    code, output, _ = tool("--ytvis", *ytvis, "--output", out)
    assert code == 0
    # one of two tracks has an IoU of 1/3: right up to a recall of a half
    assert read(out, "segm")["AP"] == pytest.approx(100 * 51 / 101)
    assert "50.50" in output
    assert "dog" in output
    for more in (("--part", "0.5", "1"), ("--videos", "clip1")):
        assert tool("--ytvis", *ytvis, "--output", out, *more)[0] == 0
        assert read(out, "segm")["AP"] == pytest.approx(100)


def test_mots_of_bdd100k(tool, mots, tmp_path):
    out = tmp_path / "figures.json"
    code, output, _ = tool("--mots", *mots, "--classes", "dog, cat", "--output", out)
    assert code == 0
    figures = read(out, "mots")
    assert (figures["mMOTSA"], figures["IDSw"]) == pytest.approx((100 * (1 + 2 / 3) / 2, 1))
    assert read(out, "segm")["AP"] == pytest.approx(100)
    assert "OVERALL" in output
    # bitmasks have no scores
    assert tool("--mots", mots[1], mots[1], "--classes", "dog,cat", "--output", out)[0] == 0
    assert list(json.loads(out.read_text())) == ["mots"]
    # the classes of BDD100K by default: the first two of eight
    code, output, _ = tool("--mots", mots[1], mots[1], "--part", "0", "0.5")
    assert "25.00" in output
    assert "rider" in output


def test_a_registered_data_set_as_the_truth(tool, ytvis, mots, video_name, tmp_path):
    name = video_name(json_file=str(ytvis[1]), thing_classes=["dog"])
    assert tool("--ytvis", ytvis[0], name)[0] == 0
    name = video_name(json_file=str(tmp_path / "absent"), bitmask_root=str(mots[1]), thing_classes=list(CLASSES))
    assert "cat" in tool("--mots", mots[0], name)[1]
    name = video_name(json_file=str(tmp_path / "absent"), thing_classes=list(CLASSES))
    code, _, errors = tool("--mots", mots[0], name)
    assert (code, "has no annotations at" in errors) == (2, True)


@pytest.fixture
def video_name(monkeypatch):
    """Registers metadata and gives its name."""
    names = []

    def make(**metadata):
        names.append(f"test_evaluate_video_{len(names)}")
        MetadataCatalog.get(names[-1]).set(**metadata)
        return names[-1]

    monkeypatch.setattr("evaluate_video.DatasetCatalog.list", lambda: names)
    yield make
    for name in names:
        MetadataCatalog.remove(name)


def test_mistakes_are_one_sentence(tool, ytvis, mots, tmp_path):
    for arguments, message in (
        (("--ytvis", ytvis[0], tmp_path / "absent.json"), "no annotation file"),
        (("--ytvis", ytvis[1], ytvis[1]), "track 0: no 'score'"),
        (("--ytvis", *ytvis, "--videos", "other"), "no video other among the 2 of the truth"),
        (("--ytvis", *ytvis, "--part", "1", "0"), "--part: part=(1.0, 0.0)"),
        (("--ytvis", *ytvis, "--classes", "a"), "--classes goes with --mots"),
        (("--mots", tmp_path / "absent", mots[1]), "there is no"),
        (("--mots", *mots), "category 'dog' is none of pedestrian"),
        (("--mots", mots[1].parent, mots[1]), "neither a list of frames"),
        (("--ytvis", *ytvis, "--mots", *mots), "not allowed with"),
        ((), "one of the arguments --ytvis --mots is required"),
    ):
        code, _, errors = tool(*arguments)
        assert code == 2
        assert message in errors
        assert "Traceback" not in errors


def test_help(tool):
    code, output, _ = tool("--help")
    assert code == 0
    assert "evaluate_video.py --mots" in output
