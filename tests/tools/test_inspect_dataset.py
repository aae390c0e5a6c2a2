from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.checkpoint import Checkpointer
from instseg_d2.data import register_youtube_vis
from instseg_d2.data.synthetic.video_set import write_occvideo
from instseg_d2.model_zoo import get_config

ROOT = Path(__file__).resolve().parents[2]


def test_training_split_through_its_augmentations(tool, tiny_recipe, tmp_path):
    def run(folder, seed):
        code, output, _ = tool(
            "--config-file", tiny_recipe, "--output", tmp_path / folder, "--seed", seed, "--side", 96
        )
        assert code == 0
        return output, cv2.imread(str(tmp_path / folder / "train_00.png"))

    output, sheet = run("a", 0)
    # The image without instances is left out by the loader's filter_empty.
    assert "3 images after augmentation: height 64 to 64, width 96 to 96 px" in output
    assert "6 instances: mean 2.0 an image" in output
    assert "2 of 3 classes: green 3, red 3" in output
    written = (tmp_path / "a" / "train_statistics.txt").read_text()
    assert output.endswith(written)
    assert sheet.shape == (22 + 64 + 4 + 4, 3 * (96 + 8), 3)
    assert (run("again", 0)[1] == sheet).all()
    assert (run("other", 1)[1] != sheet).any()  # flips


def test_optional_fields_get_panels(tool, tiny_recipe, tmp_path):
    fields = '+dataloader.train.mapper.extra_fields=["gt_has_mask","gt_occluders"]'
    code, output, _ = tool("--config-file", tiny_recipe, "--output", tmp_path / "a", "--side", 96, "--count", 1, fields)
    assert code == 0
    assert "with an occluder in the box: " in output
    assert cv2.imread(str(tmp_path / "a" / "train_00.png")).shape[1] == 2 * (96 + 4) + 4
    assert "3 images" in output  # --statistics counts more than --count draws


def test_frames_of_a_video_stand_beside_their_references(tool, tmp_path):
    video = tmp_path / "video"
    write_occvideo(video, videos=1, frames=3, size=64, seed=5, progress=False)
    register_youtube_vis("inspected_video", video / "ytvis/annotations.json", video / "ytvis/JPEGImages")
    recipe = tmp_path / "video.py"
    recipe.write_text(
        """
from instseg_d2.model_zoo import get_config

_cfg = get_config("PCAN/tracking_rcnn_narrow_fpn_occvideo_quick")
dataloader, optimizer, lr_multiplier, train, model = (
    _cfg[key] for key in ("dataloader", "optimizer", "lr_multiplier", "train", "model")
)
dataloader.train.dataset.names = dataloader.test.dataset.names = "inspected_video"
"""
    )
    try:
        arguments = ["--config-file", recipe, "--output", tmp_path / "a", "--side", 96]
        code, output, errors = tool(*arguments, "dataloader.train.references.count=2")
        assert code == 0, errors
        assert tool(*arguments, "--split", "test")[0] == 0
    finally:
        DatasetCatalog.remove("inspected_video")
        MetadataCatalog.remove("inspected_video")
    # The references are no images of their own in the numbers.
    assert "3 images after augmentation" in output
    sizes = [cv2.imread(str(tmp_path / "a" / f"{split}_00.png")).shape[:2] for split in ("train", "test")]
    assert sizes == [(22 + 96 + 4 + 4, 3 * (panels * (96 + 4) + 4)) for panels in (3, 1)]


def test_strips_show_the_targets_of_the_largest_instances(tool, tiny_recipe, tmp_path):
    common = ["--config-file", tiny_recipe, "--count", 1, "--output"]
    heights = {}
    for rows in (1, 2):
        assert tool(*common, tmp_path / str(rows), "--strips", rows)[0] == 0
        heights[rows] = cv2.imread(str(tmp_path / str(rows) / "train_00_strips.png")).shape[0]
    assert heights[2] > 1.5 * heights[1]
    assert tool(*common, tmp_path / "none")[0] == 0
    assert not list((tmp_path / "none").glob("*_strips.png"))


def test_test_split_shows_the_truth_in_the_order_of_the_channels(tool, tiny_recipe, tmp_path):
    arguments = ["--config-file", tiny_recipe, "--split", "test", "--side", 96]
    pictures = []
    for name, overrides in (("bgr", []), ("rgb", ['model.input_format="RGB"'])):
        code, output, _ = tool(*arguments, "--output", tmp_path / name, *overrides)
        assert code == 0
        assert "4 images" in output
        assert "1 images without any (25 %)" in output
        pictures.append(cv2.imread(str(tmp_path / name / "test_00.png")))
    assert np.array_equal(*pictures)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--count", "0"], "at least 1"),
        (["dataloader.train.dataset.name=x"], "nearest: dataloader.train.dataset.names"),
        (["~dataloader.train.mapper"], "dataloader.train has no mapper"),
        (['dataloader.train.dataset.names="coco_mini_train"'], "data set 'coco_mini_train' is not there"),
    ],
)
def test_mistakes_are_one_sentence(tool, tiny_recipe, tmp_path, monkeypatch, arguments, words):
    from instseg_d2.data import register_builtin

    register_builtin(tmp_path)
    try:
        code, _, errors = tool("--config-file", tiny_recipe, "--output", tmp_path / "a", *arguments)
    finally:
        register_builtin()
    assert code == 2
    assert words in errors
    assert "Traceback" not in errors


def test_image_that_cannot_be_read_is_named(tool, tiny_recipe, tmp_path):
    (tmp_path / "data" / "images" / "2.png").unlink()
    code, _, errors = tool("--config-file", tiny_recipe, "--output", tmp_path / "a")
    assert code == 2
    assert "2.png (id 2)" in errors


def test_what_masks_are_learned_from(tool, tiny_recipe, tmp_path):
    recipe = tiny_recipe.read_text()
    line = "model = tiny_mask_rcnn_config(_data.num_classes)\n"
    assert line in recipe
    tiny_recipe.write_text(
        recipe.replace("tiny_mask_rcnn_config", "tiny_condinst_config").replace(
            "(_data.num_classes)", '(_data.num_classes, recipe="sim")\nmodel.paste_threshold = 0.3'
        )
    )
    Checkpointer(instantiate(get_config(tiny_recipe).model), str(tmp_path)).write("weights")
    call = ["--config-file", tiny_recipe, "--output", tmp_path / "a", "--count", 2, "--pseudo-masks", 2]
    code, _, errors = tool(*call, "--weights", tmp_path / "weights.pth")
    assert code == 0, errors
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"train_00.png", "train_statistics.txt", "train_pastes_00.png"} | {
        f"train_0{number}_pseudo_masks.png" for number in (0, 1)
    }
    strips = cv2.imread(str(tmp_path / "a" / "train_00_pseudo_masks.png"))
    assert strips.shape[1] == 8 + 6 * 168  # image, colors, semantic, instance, pseudo mask, positives
    assert len(strips) > 2 * 160
    code, _, errors = tool(*call)
    assert code == 2
    assert "--pseudo-masks and --weights go together" in errors


def test_models_without_pseudo_masks_are_refused(tool, tiny_recipe, tmp_path):
    Checkpointer(instantiate(get_config(tiny_recipe).model), str(tmp_path)).write("weights")
    weights = ["--pseudo-masks", 2, "--weights", tmp_path / "weights.pth"]
    code, _, errors = tool("--config-file", tiny_recipe, "--output", tmp_path / "a", *weights)
    assert code == 2
    assert "makes no pseudo masks; name a recipe of SIM" in errors
