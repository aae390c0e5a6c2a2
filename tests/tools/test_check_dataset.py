import importlib.util
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from instseg_d2.data import register_builtin, register_coco
from instseg_d2.testing import write_tiny_coco

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "../shared/data"


def annotation(number, image, **changes):
    x, y = 5 * (number % 7), 6 * (number % 5)
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [x, y, 30, 20],
        "area": 600,
        "iscrowd": 0,
        "segmentation": [[x, y, x + 30, y, x + 30, y + 20, x, y + 20]],
        **changes,
    }


def without(entry, *keys):
    return {key: value for key, value in entry.items() if key not in keys}


# Every kind of problem and remark that one COCO file can have at once, made by one annotation each.
ANNOTATIONS = {
    "bad-annotation": without(annotation(10, 1), "bbox"),
    "duplicate-annotation-id": annotation(1, 2),
    "unknown-image": annotation(11, 99),
    "unknown-category": annotation(12, 1, category_id=77),
    "bad-box": annotation(13, 1, bbox=[1, 2, -3, 4]),
    "bad-polygon": annotation(14, 1, segmentation=[[1, 2, 3, 4, 5]]),
    "bad-segmentation": annotation(15, 1, segmentation="mask.png"),
    "bad-rle": annotation(16, 1, segmentation={"size": [64, 96], "counts": [5, 5]}),
    "rle-size": annotation(17, 1, segmentation={"size": [96, 64], "counts": [96 * 64]}),
    "ignore-flag": annotation(18, 1, ignore=1),
    "empty-mask": annotation(19, 1, segmentation=[[10, 10, 20, 20, 30, 30]]),
    "mask-outside-image": annotation(20, 1, segmentation=[[200, 10, 220, 10, 220, 30]]),
    "box-elsewhere": annotation(21, 1, bbox=[60, 40, 10, 10]),
    "duplicate-annotation": annotation(22, 1, **without(annotation(23, 1), "id", "image_id")),
    "annotation-id-zero": annotation(0, 3),
    "annotations-without-mask": without(annotation(24, 2), "segmentation"),
    "zero-area-box": annotation(25, 2, bbox=[5, 6, 0, 9], segmentation=None),
    "no-evaluation-keys": without(annotation(26, 2), "area"),
    "polygon-leaves-image": annotation(27, 2, segmentation=[[5, -20, 60, -20, 60, 30]], bbox=[27, 0, 33, 30], area=495),
    "empty-polygon": annotation(28, 2, segmentation=[annotation(28, 2)["segmentation"][0], [50, 5, 50, 9, 50, 7]]),
    "self-intersecting-polygon": annotation(
        29, 2, segmentation=[[5, 24, 35, 24, 5, 44, 35, 44]], bbox=[5, 24, 30, 20], area=300
    ),
    "loose-box": annotation(30, 2, bbox=[10, 0, 36, 26]),
    "area-mismatch": annotation(31, 2, area=6000),
    "box-outside-image": annotation(32, 1, bbox=[200, 10, 20, 10], segmentation=None),
    "box-leaves-image": annotation(33, 2, bbox=[60, 10, 80, 10], segmentation=None),
}
OTHERS = {
    "bad-category", "duplicate-category-id", "duplicate-category-name", "bad-image", "duplicate-image-id",
    "missing-image-file", "broken-image", "image-size", "repeated-file-name", "same-image-content",
    "images-without-instances",
}  # fmt: skip


@pytest.fixture
def faulty(tmp_path):
    """A set with every fault."""
    json_file, images = write_tiny_coco(tmp_path / "data", images=5)
    content = json.loads(json_file.read_text())
    content["annotations"] = [annotation(1, 1), annotation(2, 2), annotation(3, 3), annotation(23, 1)]
    content["annotations"] += list(ANNOTATIONS.values())
    content["categories"] += [{"name": "no id"}, {"id": 1, "name": "again"}, {"id": 8, "name": "red"}]
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:100])
    cv2.imwrite(str(images / "4.png"), np.zeros((10, 20, 3), np.uint8))
    shutil.copy(images / "1.png", images / "copy.png")
    sizes = {"height": 64, "width": 96}
    content["images"] += [
        {"id": 6, "file_name": "copy.png", **sizes},
        {"id": 7, "file_name": "nowhere.png", **sizes},
        {"id": 8, "file_name": "1.png", **sizes},
        {"id": 2, "file_name": "2.png", **sizes},
        {"id": 9, "file_name": "2.png"},
    ]
    json_file.write_text(json.dumps(content))
    return json_file, images


def test_every_fault_is_one_line(run_tool, faulty):
    done = run_tool("check_dataset.py", *faulty)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines, summary = done.stdout.split("\n\n")
    kinds = [line.split(": ")[0].split()[1] for line in lines.splitlines()]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == ANNOTATIONS.keys() | OTHERS
    told = dict(zip(kinds, lines.splitlines(), strict=True))
    for kind, entry in ANNOTATIONS.items():
        assert f"annotation {entry['id']} of image" in told[kind] or f"(id {entry['id']})" in told[kind]
        assert " -> " in told[kind]
    severities = [line.split()[0] for line in lines.splitlines()]
    assert severities == sorted(severities)
    assert f"{severities.count('problem')} kinds of problems, {severities.count('remark')} kinds of remarks" in summary


@pytest.fixture
def tool(monkeypatch, capsys):
    """`tool(...)` runs the tool in this process, which saves its imports: exit code, output, errors."""
    spec = importlib.util.spec_from_file_location("check_dataset", ROOT / "tools" / "check_dataset.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["check_dataset.py", *map(str, arguments)])
        try:
            code = module.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_sound_set_and_its_summary(tool, tmp_path):
    json_file, images = write_tiny_coco(tmp_path / "data")
    code, output, _ = tool(json_file, images, "--num-workers", 2)
    assert code == 0
    assert "remark   images-without-instances: image 4" in output
    for line in ("4 images, 1 without instances", "6 instances", "green 3, red 3; none of: unused"):
        assert line in output
    code, output, _ = tool(json_file)
    assert code == 0
    assert "image files were not looked at" in output


def test_registered_name(tool, tmp_path):
    json_file, images = write_tiny_coco(tmp_path / "data")
    name = register_coco(f"check_{tmp_path.name}", json_file, images).name
    (images / "2.png").unlink()
    code, output, _ = tool(name)
    assert code == 1
    assert f"image 2: no file {images / '2.png'}" in output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.json"], 2, "'nowhere.json' is neither a file nor a registered data set"),
        (["occshapes_vall"], 2, "registered names like it: occshapes_val"),
        (["data/instances.json", "nowhere"], 2, "no image folder 'nowhere'"),
        (["data/instances.json", "--limit", "0"], 2, "--limit at least 1"),
        (["coco_mini_val"], 2, "data set 'coco_mini_val' is not there"),
        (["cut.json"], 1, "cut.json is not valid json"),
        (["frames.json"], 1, "the top level is a list (it looks like Scalabel (BDD100K))"),
    ],
)
def test_mistakes_are_told(tool, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    register_builtin(tmp_path)
    write_tiny_coco(tmp_path / "data")
    (tmp_path / "cut.json").write_text('{"images": [')
    (tmp_path / "frames.json").write_text('[{"name": "1.jpg", "labels": []}]')
    try:
        found, output, errors = tool(*arguments)
    finally:
        register_builtin()
    assert found == code
    assert words in " ".join((output + errors).split())


@pytest.mark.skipif(not DATA.is_dir(), reason="the sample sets are not on this machine")
@pytest.mark.parametrize(
    ("json_file", "images", "code"),
    [
        ("coco_mini/annotations/instances_val2017.json", "coco_mini/val2017", 0),
        ("cocoa_amodal_samples/annotations/amodal.json", "cocoa_amodal_samples/images", 0),
        ("video_multiobj/annotations/ytvis_train.json", "video_multiobj/JPEGImages", 0),
        ("label_samples/bdd100k/seg_track_sample.json", None, 1),
    ],
)
def test_sets_that_are_known(tool, json_file, images, code):
    found, output, _ = tool(DATA / json_file, *([DATA / images] if images else []))
    assert found == code, output
