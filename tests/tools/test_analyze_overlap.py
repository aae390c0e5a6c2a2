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


@pytest.fixture
def drawn(module, monkeypatch):
    """What the tool asks for to be drawn: overlaps by label, threshold and side."""
    calls = []

    def spy(image, boxes, masks, overlaps, labels, *, threshold, side):
        shares = dict(zip(labels, overlaps, strict=True))
        calls.append((shares, boxes.tolist(), masks.sum(axis=(1, 2)).tolist(), threshold))
        return original(image, boxes, masks, overlaps, labels, threshold=threshold, side=side)

    original = module.draw_overlaps
    monkeypatch.setattr(module, "draw_overlaps", spy)
    return calls


def test_overlaps_are_drawn(tool, drawn, tmp_path):
    """A box of 10 x 10, of which the other mask covers 3 columns: 0.30; of the other's 6 columns 3: 0.50."""
    boxes = {1: (10, 10, 10, 10), 2: (17, 10, 6, 10), 3: (40, 40, 6, 6)}

    def annotation(key, image_id, category):
        x, y, w, h = boxes[category]
        polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        ids = {"id": key, "image_id": image_id, "category_id": category}
        return {**ids, "iscrowd": 0, "area": w * h, "bbox": [x, y, w, h], "segmentation": polygon}

    images = [{"id": i, "file_name": f"{i}.png", "height": 60, "width": 80} for i in (1, 2)]
    # The second image has one object: nothing to draw.
    content = {
        "images": images,
        "annotations": [*(annotation(key, 1, key) for key in boxes), annotation(4, 2, 1)],
        "categories": [{"id": key, "name": name} for key, name in enumerate(("cup", "pear", "leaf"), start=1)],
    }
    file = tmp_path / "some.json"
    file.write_text(json.dumps(content))
    call = ("--dataset", file, "--draw", 5, "--output", tmp_path / "out")
    code, _, errors = tool(*call)
    assert code == 2
    assert "1.png" in errors
    for image in images:
        cv2.imwrite(str(tmp_path / image["file_name"]), np.full((60, 80, 3), 100, np.uint8))
    code, output, errors = tool(*call, "--image-root", tmp_path)
    assert (code, errors) == (0, "")
    assert str(tmp_path / "out") in output
    ((shares, corners, areas, threshold),) = drawn
    assert shares == {"cup": pytest.approx(0.3), "pear": pytest.approx(0.5), "leaf": 0}
    assert corners == [[10, 10, 20, 20], [17, 10, 23, 20], [40, 40, 46, 46]]
    assert areas == [100, 60, 36]
    assert threshold == 0.3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["objects_00.png"]
    # 480 wide at 4:3, a caption of 22, a gap of 4 of the row inside and of the sheet.
    assert cv2.imread(str(tmp_path / "out" / "objects_00.png")).shape == (360 + 22 + 4 + 4, 480 + 4 + 4, 3)


def test_measuring_and_drawing_at_once(tool, truth, predictions, tmp_path):
    out = tmp_path / "out"
    code, _, errors = tool(
        *("--dataset", truth, "--seen", "occshapes_seen", "--output", out, "--draw", 2),
        *("--predictions", predictions[0], "--image-root", truth.parent / "images"),
    )
    assert (code, errors) == (0, "")
    names = {path.name for path in out.iterdir()}
    assert names == {"overlap.csv", "false_positives.csv", "overlap.png", "objects_00.png"}


def test_help_tells_of_drawing(tool):
    code, output, _ = tool("--help")
    assert code == 0
    assert "--draw N" in output
    assert "objects_00.png" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "to measure, --draw N"),
        (("--draw", -1), "--draw N"),
        (("--draw", 2, "--seen", "occshapes_seen"), "go together"),
        (("--dataset", "occshapes_val", "--draw", 2, "--image-root", "."), "'occshapes_val' has its own images"),
    ],
)
def test_what_is_to_be_done_must_be_said(tool, truth, tmp_path, options, message):
    code, _, errors = tool("--dataset", truth, "--output", tmp_path / "out", *options)
    assert code == 2
    assert message in errors


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
