import json
from pathlib import Path

import cv2
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.data import register_coco, write_occshapes
from instseg_d2.testing import write_tiny_coco

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_coco(tmp_path / "tiny")


@pytest.fixture
def registered(tmp_path):
    """Names of two sets of generated images, of which one says that its masks are amodal."""
    folder = tmp_path / "shapes"
    write_occshapes(folder, images=2, seed=0, size=64, progress=False)
    names = {masks: f"{tmp_path.name}_{masks}" for masks in ("visible", "amodal")}
    for masks, file in (("visible", "annotations.json"), ("amodal", "annotations_amodal.json")):
        register_coco(names[masks], folder / file, folder / "images", masks=masks)
    yield names
    for name in names.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def annotations(out):
    return json.loads((out / "annotations.json").read_text())["annotations"]


def test_writes_a_set_and_a_contact_sheet(tool, tiny, tmp_path):
    out = tmp_path / "out"
    code, output, errors = tool(*tiny, "--out", out, "--contact-sheet", 2, "--number", 2, 2)
    assert code == 0
    assert "4 images, 3 of them with pastes; 12 instances, 6 of them pasted" in output
    assert "pasting: 100%" in errors
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    # Two rows of four pictures, 384 px wide.
    assert sheet.shape == (2 * (22 + 256 + 4 + 4), 4 * (384 + 4) + 4, 3)
    code, _, errors = tool(*tiny, "--out", out)
    assert (code, "--overwrite" in errors) == (2, True)
    code, _, _ = tool(*tiny, "--out", out, "--overwrite", "--workers", 1)
    assert code == 0
    assert not (out / "contact_sheet.png").exists()


def test_nothing_to_draw(tool, tiny, tmp_path):
    code, output, _ = tool(*tiny, "--out", tmp_path / "out", "--contact-sheet", 2, "--probability", 0)
    assert code == 0
    assert "nothing was pasted" in output
    assert len(annotations(tmp_path / "out")) == 6


@pytest.mark.parametrize("masks", ["visible", "amodal"])
def test_registered_sets_say_which_masks_they_have(tool, registered, tmp_path, masks):
    out = tmp_path / "out"
    code, _, _ = tool(registered[masks], "--out", out, "--contact-sheet", 1, "--at-border", "--coverage", 0.2, 0.5)
    assert code == 0
    assert (out / "contact_sheet.png").is_file()
    changed = [one for one in annotations(out) if one["visible_segmentation"] != one["amodal_segmentation"]]
    assert changed
    assert all(one["segmentation"] == one[f"{masks}_segmentation"] for one in changed)


def test_masks_can_be_said(tool, tmp_path):
    write_occshapes(tmp_path / "shapes", images=2, seed=0, size=64, progress=False)
    out, source = tmp_path / "out", tmp_path / "shapes"
    before = json.loads((source / "annotations_amodal.json").read_text())["annotations"]
    code, _, _ = tool(source / "annotations_amodal.json", source / "images", "--out", out, "--masks", "amodal")
    assert code == 0
    kept = {one["id"]: one["segmentation"] for one in annotations(out)}
    assert all(kept.get(one["id"], one["segmentation"]) == one["segmentation"] for one in before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["occshapes_trian"], "neither a file nor a registered data set; nearest: occshapes_train"),
        (["nowhere.json", "."], "no annotation file nowhere.json"),
        (["{json}"], "give the image folder after the json"),
        (["{json}", "nowhere"], "no image folder 'nowhere'"),
        (["{json}", "{images}", "--probability", "2"], "--probability=2.0: must be in [0, 1]"),
        (["{json}", "{images}", "--least-pixels", "0"], "--least-pixels=0: must be a whole number, 1 or more"),
        (["{json}", "{images}", "--coverage", "0.6", "0.1"], "--coverage=(0.6, 0.1): must be two numbers in order"),
        (["{json}", "{images}", "--seed", "-1"], "seed=-1: must be 0 or more"),
        (["{json}", "{images}", "--masks", "amodal"], "no instance with a mask to cut out"),
    ],
)
def test_mistakes_are_one_sentence(tool, tiny, tmp_path, arguments, words):
    given = [text.format(json=tiny[0], images=tiny[1]) for text in arguments]
    code, _, errors = tool(*given, "--out", tmp_path / "out")
    assert code == 2
    assert words in errors
    assert errors.startswith("paste_occlusion.py: error: ")
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_image_that_cannot_be_read_is_named(tool, tiny, tmp_path):
    (tiny[1] / "2.png").unlink()
    code, _, errors = tool(*tiny, "--out", tmp_path / "out")
    assert code == 2
    assert "2.png (id 2)" in errors
    assert not (tmp_path / "out").exists()


def test_interrupt(tool, tiny, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "imencode", stop)
    code, _, errors = tool(*tiny, "--out", tmp_path / "out")
    assert (code, "interrupted" in errors) == (130, True)
    assert not (tmp_path / "out").exists()


def test_set_that_is_not_a_file(tool, tmp_path, request):
    DatasetCatalog.register("pasting_from_memory", list)
    request.addfinalizer(lambda: DatasetCatalog.remove("pasting_from_memory"))
    request.addfinalizer(lambda: MetadataCatalog.remove("pasting_from_memory"))
    code, _, errors = tool("pasting_from_memory", "--out", tmp_path / "out")
    assert (code, "does not come from a json file" in errors) == (2, True)
