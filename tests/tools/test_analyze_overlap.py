import csv
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_util

from instseg_d2.data import SEEN, UNSEEN, write_occshapes


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A COCO file of six generated images."""
    folder = tmp_path_factory.mktemp("shapes") / "set"
    write_occshapes(folder, images=6, size=64, progress=False)
    return folder / "annotations.json"


@pytest.fixture(scope="module")
def predictions(truth):
    """Predictions of every object: exact masks, and masks that fill the box."""
    content = json.loads(truth.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    exact, filled = [], []
    for one in content["annotations"]:
        entry = {**{key: one[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9}
        exact.append({**entry, "segmentation": one["segmentation"]})
        (box,) = mask_util.frPyObjects(np.array([one["bbox"]], float), *sizes[one["image_id"]])
        filled.append({**entry, "segmentation": {**box, "counts": box["counts"].decode()}})
    paths = []
    for name, results in (("exact", exact), ("filled", filled)):
        paths.append(truth.parent / name / "coco_instances_results.json")
        paths[-1].parent.mkdir()
        paths[-1].write_text(json.dumps(results))
    return paths


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize(("of", "names"), [("unseen", UNSEEN), ("all", [*SEEN, *UNSEEN])])
def test_models_side_by_side(tool, truth, predictions, tmp_path, of, names):
    exact, filled = predictions
    out = tmp_path / "out"
    code, output, errors = tool(
        *("--dataset", truth, "--seen", "occshapes_seen", "--of", of, "--output", out),
        *("--predictions", exact, f"boxes={filled}"),
    )
    assert (code, errors) == (0, "")
    rows = read(out / "overlap.csv")
    assert [row["model"] for row in rows] == ["exact"] * 12 + ["boxes"] * 12
    content = json.loads(truth.read_text())
    categories = {one["id"] for one in content["categories"] if one["name"] in names}
    count = sum(one["category_id"] in categories for one in content["annotations"])
    assert int(rows[0]["instances"]) == count == sum(int(row["instances"]) for row in rows[1:11])
    assert all(float(row["AP"]) > 99.9 for row in rows[:12] if row["instances"] != "0")
    assert float(rows[12]["AP"]) < 90
    wrong = read(out / "false_positives.csv")
    assert [row["model"] for row in wrong] == ["exact", "boxes"]
    assert wrong[0]["pixels"] == "0"
    assert [int(row["detections"]) for row in wrong] == [count] * 2
    assert sum(float(wrong[1][area]) for area in ("background", "seen", "unseen")) == pytest.approx(100)
    assert min(float(wrong[1][area]) for area in ("background", "seen", "unseen")) > 0
    assert "AP boxes" in output
    assert "wrong pixels of masks" in output
    assert cv2.imread(str(out / "overlap.png")).shape[2] == 3


def test_one_category_by_its_name(tool, truth, predictions, tmp_path):
    code, output, _ = tool(
        *("--dataset", truth, "--seen", SEEN[0], "--of", "seen", "--output", tmp_path / "out"),
        *("--predictions", predictions[1], "--threshold", 0.5),
    )
    assert code == 0
    assert ">= 0.5" in output


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--dataset", "occshape_val"), "neither a file nor a registered data set"),
        (("--seen", "occshapes_see"), "no category split 'occshapes_see' (near: occshapes_seen"),
        (("--seen", "disc", "sqare"), "no category 'sqare'"),
        (("--predictions", "nowhere.json"), "nowhere.json"),
        (("--threshold", "0"), "above 0 and at most 1"),
        (("--predictions", "a=x.json", "a=y.json"), "several are named a; write NAME=FILE"),
    ],
)
def test_mistakes(tool, truth, predictions, tmp_path, changed, message):
    usual = {
        "--dataset": (truth,),
        "--seen": ("occshapes_seen",),
        "--predictions": (predictions[0],),
        "--output": (tmp_path / "out",),
    }
    options = {**usual, changed[0]: changed[1:]}
    code, _, errors = tool(*(part for flag, values in options.items() for part in (flag, *values)))
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
