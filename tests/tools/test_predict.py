import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import instantiate
from pycocotools.coco import COCO

from instseg_d2.checkpoint import Checkpointer
from instseg_d2.model_zoo import get_config

ROOT = Path(__file__).resolve().parents[2]
_BCNET = """
from instseg_d2.projects.BCNet.configs._bcnet import give_bcnet

give_bcnet(model.roi_heads, dataloader)
model.roi_heads.mask_head.num_convs = 2
"""


@pytest.fixture
def weights(tiny_recipe, tmp_path):
    Checkpointer(instantiate(get_config(tiny_recipe).model), str(tmp_path)).write("weights")
    return tmp_path / "weights.pth"


def arguments(recipe, weights, *inputs, threshold="0.0"):
    return [
        "--config-file",
        recipe,
        "--weights",
        weights,
        "--output",
        "pred",
        "--score-threshold",
        threshold,
        "--input",
        *inputs,
    ]


@pytest.mark.slow
def test_images_video_and_a_broken_file(run_tool, tiny_recipe, weights, tmp_path):
    clip = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"mp4v"), 10, (96, 64))
    for index in range(3):
        writer.write(np.full((64, 96, 3), 60 * index, np.uint8))
    writer.release()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(cv2.imencode(".jpg", np.zeros((64, 96, 3), np.uint8))[1].tobytes()[:300])

    done = run_tool(
        "predict.py", *arguments(tiny_recipe, weights, tmp_path / "data" / "images", broken, clip, threshold="0.05")
    )
    assert done.returncode == 1
    assert "broken.jpg" in done.stderr
    assert "1 of 6 files could not be read" in done.stdout
    out = tmp_path / "pred"
    assert {path.name for path in out.iterdir()} == {*(f"{i}.jpg" for i in range(1, 5)), "clip.mp4", "predictions.json"}
    capture = cv2.VideoCapture(str(out / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3

    coco = COCO(str(out / "predictions.json"))
    assert len(coco.imgs) == 4 + 3
    assert {category["name"] for category in coco.cats.values()} <= {"green", "red", "unused"}
    for annotation in coco.anns.values():
        assert 0 <= annotation["score"] <= 1
        assert coco.annToMask(annotation).sum() == annotation["area"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--input": "nowhere/*.png"}, "no file, folder or pattern match: 'nowhere/*.png'"),
        ({"--input": "tiny.py"}, "neither an image nor a video"),
        ({"--weights": "nowhere.pth"}, "no checkpoint at 'nowhere.pth'"),
        ({"--config-file": "Baselines/mask_rcnn_r50_fpn_coco_1x"}, "belongs to another model"),
    ],
)
def test_mistakes_are_one_sentence(run_tool, tiny_recipe, weights, tmp_path, change, words):
    call = arguments(tiny_recipe, weights, tmp_path / "data" / "images")
    for flag, value in change.items():
        call[call.index(flag) + 1] = value
    done = run_tool("predict.py", *call)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_predictions_survive_a_second_run_that_fails(run_tool, tiny_recipe, weights, tmp_path):
    (tmp_path / "pred").mkdir()
    kept = tmp_path / "pred" / "predictions.json"
    kept.write_text(json.dumps({"mine": 1}))
    assert run_tool("predict.py", *arguments(tiny_recipe, weights, "nowhere")).returncode == 2
    assert json.loads(kept.read_text()) == {"mine": 1}


@pytest.fixture
def tool(monkeypatch, capsys, tmp_path):
    """`tool(...)` runs the tool in this process, which saves its imports: exit code, output, errors."""
    spec = importlib.util.spec_from_file_location("predict", ROOT / "tools" / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        try:
            code = module.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_strips_of_a_head_with_further_maps(tool, tiny_recipe, tmp_path):
    tiny_recipe.write_text(tiny_recipe.read_text() + _BCNET)
    Checkpointer(instantiate(get_config(tiny_recipe).model), str(tmp_path)).write("weights")
    call = arguments(tiny_recipe, tmp_path / "weights.pth", tmp_path / "data" / "images" / "1.png")
    code, _, errors = tool(*call, "--strips", 2, "--device", "cpu")
    assert code == 0
    assert "--strips" not in errors
    out = tmp_path / "pred"
    assert {path.name for path in out.iterdir()} == {"1.jpg", "1_strips.png", "predictions.json"}
    strips = cv2.imread(str(out / "1_strips.png"))
    assert strips.shape[1] == 8 + 6 * 168  # image, occluder, its contour, contour, soft mask, mask
    assert tool(*call, "--strips", 1, "--no-overlays", "--device", "cpu")[0] == 0
    shorter = cv2.imread(str(out / "1_strips.png"))
    assert 160 < len(strips) - len(shorter) < 200
    assert (strips[:200] == shorter[:200]).all()


def test_strips_of_a_model_without_further_maps(tool, tiny_recipe, weights, tmp_path):
    image = tmp_path / "data" / "images" / "1.png"
    call = arguments(tiny_recipe, weights, image, threshold="0.999")
    code, _, errors = tool(*call, "--strips", "--device", "cpu")
    assert code == 0
    assert "no mask head of this model has further maps" in errors
    strips = cv2.imread(str(tmp_path / "pred" / "1_strips.png"))
    assert strips.shape[1] == 8 + 3 * 168  # image, soft mask, mask
    assert tool(*call, "--strips", -1)[0] == 2
