import json
from pathlib import Path

import pytest

from instseg_d2.testing import write_tiny_coco

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path):
    """Three images of two boxes that do not overlap, one moved until the IoU is 1/3."""
    path, _ = write_tiny_coco(tmp_path / "data")
    content = json.loads(path.read_text())
    first, second = content["annotations"][:2]
    second["bbox"] = [first["bbox"][0] + first["bbox"][2] // 2, *first["bbox"][1:]]
    path.write_text(json.dumps(content))
    return path


def test_counts_and_files(tool, file, tmp_path):
    ids, annotations = tmp_path / "ids.txt", tmp_path / "occ.json"
    code, output, _ = tool(file, "--write", ids, annotations)
    assert code == 0
    assert "4 images, 6 annotations; at least 0.2" in output
    rows = {line.split()[0]: line.split()[1] for line in output.splitlines() if "%" in line}
    assert len(rows) == 10
    assert (rows["mean_iou"], rows["any_covered"], rows["any_iou_same_class"]) == ("1", "1", "0")
    assert "1005" not in output
    assert ids.read_text() == "1\n"
    written = json.loads(annotations.read_text())
    assert [image["id"] for image in written["images"]] == [1]
    assert written["annotations"] == json.loads(file.read_text())["annotations"][:2]


def test_against_the_paper_for_a_file_of_5000_images(tool, file):
    content = json.loads(file.read_text())
    content["images"] += [{**content["images"][0], "id": key} for key in range(5, 5001)]
    file.write_text(json.dumps(content))
    code, output, _ = tool(file, "--definition", "any_iou", "--threshold", "0.3")
    assert code == 0
    assert "against 1005" in output
    assert "-1004" in output
    assert "mean_iou" not in output


def test_mistakes(tool, file):
    code, _, error = tool("nowhere.json")
    assert (code, "no annotation file nowhere.json" in error) == (2, True)
    code, _, error = tool(file, "--write", "ids.csv")
    assert (code, "must end in .json" in error) == (2, True)
    code, _, error = tool(file, "--threshold", "0")
    assert (code, "must be above 0" in error) == (2, True)
    file.write_text(json.dumps({"images": []}))
    code, _, error = tool(file)
    assert (code, "no list 'categories'" in error) == (2, True)
