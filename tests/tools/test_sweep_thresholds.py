import csv
import math
from pathlib import Path

import cv2
import pytest
from detectron2.config import instantiate

from instseg_d2.checkpoint import Checkpointer, load_weights
from instseg_d2.evaluation import GivenBoxesEvaluation
from instseg_d2.model_zoo import get_config

ROOT = Path(__file__).resolve().parents[2]
_ATMASK = """
from instseg_d2.projects.ATMask.configs._atmask import give_atmask

give_atmask(model)
"""


@pytest.fixture
def arguments(tiny_recipe, tmp_path):
    """Arguments of a call with random weights of the tiny recipe, whose text may be changed before."""

    def make(*more):
        model = instantiate(get_config(tiny_recipe).model)
        Checkpointer(model, str(tmp_path)).write("weights")
        return [
            *("--config-file", tiny_recipe, "--weights", tmp_path / "weights.pth", "--output", tmp_path / "out"),
            *("--device", "cpu", *more),
        ]

    return make


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_fixed_thresholds_of_a_mask_rcnn(tool, arguments, tiny_recipe, tmp_path):
    code, output, _ = tool(*arguments("--thresholds", "0.5,0.49,0.51", "--score-threshold", 0, "--pictures", 2))
    assert code == 0
    rows = read(tmp_path / "out" / "thresholds.csv")
    assert [row["threshold"] for row in rows] == ["0.49", "0.5", "0.51"]
    assert {"segm/AP", "segm/AP75", "given_boxes/IoU"} <= set(rows[0])
    ious = [float(row["given_boxes/IoU"]) for row in rows]
    cfg = get_config(tiny_recipe)
    model = instantiate(cfg.model)
    load_weights(model, str(tmp_path / "weights.pth"))
    loader = instantiate(cfg.dataloader.test)
    evaluation = GivenBoxesEvaluation(loader=loader, dataset_name=cfg.dataloader.test.dataset.names, bins=())
    assert ious[1] == evaluation(model)["given_boxes"]["IoU"] > 0
    assert ious[0] != ious[2]
    for row, iou in zip(rows, ious, strict=True):
        assert f"P >= {row['threshold']} " in output
        assert f"{iou:.2f}" in output
    assert f"best fixed threshold {rows[ious.index(max(ious))]['threshold']}" in output.splitlines()[-2]
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"thresholds.png", "1_thresholds.png", "2_thresholds.png"}
    assert cv2.imread(str(tmp_path / "out" / "1_thresholds.png")).shape[1] == 8 + 5 * 168  # image, P, three masks


def test_learned_thresholds_stand_beside(tool, arguments, tiny_recipe, tmp_path):
    tiny_recipe.write_text(tiny_recipe.read_text() + _ATMASK)
    code, output, _ = tool(*arguments("--pictures", 1, "--score-threshold", 0))
    assert code == 0
    rows = read(tmp_path / "out" / "thresholds.csv")
    assert [row["rule"] for row in rows] == ["P >= 0.3", "P >= 0.5", "P >= 0.7", "P >= T", "P >= T, by pixel"]
    assert [row["threshold"] for row in rows[3:]] == ["", ""]
    assert all(not math.isnan(float(row["given_boxes/IoU"])) for row in rows)
    assert "; P >= T: " in output
    assert cv2.imread(str(tmp_path / "out" / "1_thresholds.png")).shape[1] == 8 + 8 * 168  # image, P, T, five masks


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--thresholds", "0.5,1"], "thresholds lie between 0 and 1"),
        (["--thresholds", "low"], "--thresholds"),
        (["--weights", "nowhere.pth"], "no checkpoint at 'nowhere.pth'"),
        (["model.roi_heads.num_clases=1"], "nearest: model.roi_heads.num_classes"),
        (['dataloader.test.dataset.names=["a","b"]'], "2 data sets; thresholds are swept on one"),
    ],
)
def test_mistakes_are_one_sentence(tool, arguments, more, words):
    code, _, errors = tool(*arguments(*more))
    assert code == 2
    assert words in errors
    assert "Traceback" not in errors


def test_models_without_soft_masks_and_data_without_truth(tool, arguments, tiny_recipe, tmp_path):
    text = tiny_recipe.read_text()
    detector = "from instseg_d2.testing import tiny_fcos_mask_config\nmodel = tiny_fcos_mask_config(3).detector\n"
    tiny_recipe.write_text(text + detector)
    code, _, errors = tool(*arguments())
    assert code == 2
    assert "has no inference(..., do_postprocess=False)" in errors
    tiny_recipe.write_text(text + 'dataloader.evaluator.update(tasks=("bbox",))\n')
    assert tool(*arguments("--pictures", 0))[0] == 0  # masks are asked for, whatever the recipe evaluates
