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
from instseg_d2.data import DatasetError, register_coco
from instseg_d2.data.checks import check_dataset
from instseg_d2.engine.run import evaluate
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import write_tiny_coco

ROOT = Path(__file__).resolve().parents[2]
_BCNET = """
from instseg_d2.projects.BCNet.configs._bcnet import give_bcnet

give_bcnet(model.roi_heads, dataloader)
model.roi_heads.mask_head.num_convs = 2
"""

_CPMASK = """
from instseg_d2.projects.CPMask.configs._cpmask import give_cpmask

give_cpmask(model.roi_heads)
"""

_PEP = """
from instseg_d2.testing import tiny_pep_config

model = tiny_pep_config()
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


def test_strips_of_a_model_that_mines(tool, tiny_recipe, tmp_path):
    tiny_recipe.write_text(tiny_recipe.read_text() + _PEP)
    Checkpointer(instantiate(get_config(tiny_recipe).model), str(tmp_path)).write("weights")
    call = arguments(tiny_recipe, tmp_path / "weights.pth", tmp_path / "data" / "images" / "1.png")
    code, _, errors = tool(*call, "--strips", "--no-overlays", "--device", "cpu")
    assert (code, errors.count("--strips")) == (0, 0)
    picture = cv2.imread(str(tmp_path / "pred" / "1_strips.png"))
    image = cv2.imread(str(tmp_path / "data" / "images" / "1.png"))
    # Originals, key pixels, and the result, twice as large; nothing was found that could be similar.
    assert picture.shape[1] >= 3 * 2 * image.shape[1]


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


def test_affinity_of_a_pixel(tool, tiny_recipe, weights, tmp_path):
    call = [tmp_path / "data" / "images" / "1.png", "--no-overlays", "--device", "cpu", "--affinity-of"]
    plain = arguments(tiny_recipe, weights, *call)
    code, _, errors = tool(*plain, 40, 30)
    assert (code, errors.count("they come from CPMask's head")) == (0, 1)
    tiny_recipe.write_text(tiny_recipe.read_text() + _CPMASK)
    Checkpointer(instantiate(get_config(tiny_recipe).model), str(tmp_path)).write("weights")
    code, _, errors = tool(*plain, 40, 30)
    assert (code, errors.count("no picture of affinities")) == (0, 0)
    picture = cv2.imread(str(tmp_path / "pred" / "1_affinity.png"))
    assert picture.shape[1] >= 4 * 220  # image, affinity, boundary, mask
    (tmp_path / "pred" / "1_affinity.png").unlink()
    code, _, errors = tool(*plain, -5, 30)
    assert (code, errors.count("lies in none of")) == (0, 1)
    assert not (tmp_path / "pred" / "1_affinity.png").exists()


def test_strips_of_a_model_without_further_maps(tool, tiny_recipe, weights, tmp_path):
    image = tmp_path / "data" / "images" / "1.png"
    call = arguments(tiny_recipe, weights, image, threshold="0.999")
    code, _, errors = tool(*call, "--strips", "--device", "cpu")
    assert code == 0
    assert "no mask head of this model has further maps" in errors
    strips = cv2.imread(str(tmp_path / "pred" / "1_strips.png"))
    assert strips.shape[1] == 8 + 3 * 168  # image, soft mask, mask
    assert tool(*call, "--strips", -1)[0] == 2


@pytest.fixture
def boxes_recipe(tmp_path):
    """A config file that trains BoxInst on a data set without any mask, as a user writes it, its json and images."""
    json_file, images = write_tiny_coco(tmp_path / "data")
    content = json.loads(json_file.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    json_file.write_text(json.dumps(content))
    path = tmp_path / "boxes.py"
    path.write_text(
        f"""
from instseg_d2.data import register_coco
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import tiny_condinst_config

_data = register_coco({"boxes_" + tmp_path.name!r}, {str(json_file)!r}, {str(images)!r})
_cfg = get_config("SIM/boxinst_narrow_fpn_occshapes_quick")
dataloader, optimizer, lr_multiplier, train = (
    _cfg[key] for key in ("dataloader", "optimizer", "lr_multiplier", "train")
)
model = tiny_condinst_config(_data.num_classes, recipe="boxinst")
model.mask_threshold = 0.0  # hardly trained models may otherwise draw nothing
dataloader.train.dataset.names = dataloader.test.dataset.names = _data.name
dataloader.train.update(total_batch_size=2, num_workers=0)
dataloader.test.num_workers = 0
del dataloader.evaluator["category_subsets"], dataloader.evaluator["occlusion_bins"], dataloader["further_evaluations"]
dataloader.evaluator.tasks = ["bbox"]
train.update(max_iter=5, device="cpu", output_dir={str(tmp_path / "out")!r})
"""
    )
    return path, json_file, images


def save_masks(recipe, weights, json_file, images, target="made/masks.json"):
    return [
        "--config-file", recipe, "--weights", weights, "--device", "cpu",
        "--input", images, "--boxes", json_file, "--save-masks", target,
    ]  # fmt: skip


@pytest.mark.slow
def test_boxes_alone_become_a_data_set_with_masks(run_tool, tool, boxes_recipe, tmp_path):
    recipe, json_file, images = boxes_recipe
    done = run_tool("train_net.py", "--config-file", recipe)
    assert done.returncode == 0, done.stderr
    code, output, _ = tool(*save_masks(recipe, tmp_path / "out" / "model_final.pth", json_file, images))
    assert code == 0
    assert "6 masks predicted, 0 kept, 0 boxes without one: made/masks.json" in output
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["masks.json"]
    content, before = json.loads((tmp_path / "made" / "masks.json").read_text()), json.loads(json_file.read_text())
    assert content["images"] == before["images"]
    assert [one["bbox"] for one in content["annotations"]] == [one["bbox"] for one in before["annotations"]]
    assert check_dataset(content, images).is_usable
    assert register_coco(f"masks_{tmp_path.name}", tmp_path / "made" / "masks.json", images).num_images == 4


def test_evaluating_masks_against_boxes_alone_is_explained(boxes_recipe):
    cfg = get_config(boxes_recipe[0])
    del cfg.dataloader.evaluator["tasks"]
    cfg.model.detector.test_score_thresh = 0.0
    with pytest.raises(DatasetError, match=r"has no 'segmentation', .* \(instance_subsets\)"):
        evaluate(cfg, instantiate(cfg.model))
    cfg.dataloader.evaluator.instance_subsets = []
    with pytest.raises(DatasetError, match=r"has annotations without: .* \+dataloader\.evaluator\.tasks=\[bbox\]"):
        evaluate(cfg, instantiate(cfg.model))


def test_masks_are_written_whole_or_not_at_all(tool, boxes_recipe, tmp_path, monkeypatch):
    recipe, json_file, images = boxes_recipe
    Checkpointer(instantiate(get_config(recipe).model), str(tmp_path)).write("weights")
    call = save_masks(recipe, tmp_path / "weights.pth", json_file, images)
    made = tmp_path / "made"
    made.mkdir()
    (made / "masks.json").write_text("older")
    content = json.loads(json_file.read_text())
    content["images"][1]["height"] = 65
    json_file.write_text(json.dumps(content))
    code, _, errors = tool(*call)
    assert code == 2
    assert "image 2 is 65 x 96 px" in errors
    content["images"][1]["height"] = 64
    json_file.write_text(json.dumps(content))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("instseg_d2.engine.predictor.Predictor.segment_batch", stop)
        with pytest.raises(KeyboardInterrupt):
            tool(*call)
    assert [(path.name, path.read_text()) for path in made.iterdir()] == [("masks.json", "older")]
    (images / "2.png").write_bytes(b"no image")
    code, output, errors = tool(*call)
    assert code == 1
    assert "4 masks predicted, 0 kept, 2 boxes without one: made/masks.json; 1 images could not be read" in output
    assert "2.png" in errors
    assert "annotation 3 of image 2: the image cannot be read" in errors
    assert [path.name for path in made.iterdir()] == ["masks.json"]
    assert sum("segmentation" in one for one in json.loads((made / "masks.json").read_text())["annotations"]) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--boxes": None}, "--boxes and --save-masks go together"),
        ({"--save-masks": None}, "--boxes and --save-masks go together"),
        ({"--boxes": None, "--save-masks": None}, "required: --output"),
        ({"--output": "out"}, "leave --output, --strips, --affinity-of and --mots out"),
        ({"--input": "data/images/1.png"}, "--input is the one folder of the images"),
        ({"--save-masks": "data"}, "'data' is a folder"),
        ({"--save-masks": "data/../data/instances.json"}, "would write over --boxes"),
        ({"--boxes": "nowhere.json"}, "no annotation file nowhere.json"),
        ({"--input": "."}, "cannot be used"),
    ],
)
def test_mistakes_with_masks_to_save(tool, tmp_path, change, words):
    write_tiny_coco(tmp_path / "data")
    flags = {
        "--config-file": "tiny.py",
        "--weights": "weights.pth",
        "--input": "data/images",
        "--boxes": "data/instances.json",
        "--save-masks": "masks.json",
    } | change
    code, _, errors = tool(*(part for flag, value in flags.items() if value for part in (flag, value)))
    assert code == 2
    assert words in " ".join(errors.split())
    assert not list(tmp_path.glob("masks.json*"))
