import json

import pytest
from detectron2.config import instantiate

from instseg_d2.engine.overrides import apply_overrides
from instseg_d2.model_zoo import get_config

FILE = "dataloader.train.dataset.supervision.file"


@pytest.fixture
def recipe(tiny_recipe):
    """The tiny recipe on two shots of its second category, of which there are three objects."""
    tiny_recipe.write_text(
        tiny_recipe.read_text()
        + """
from detectron2.config import LazyCall
from instseg_d2.data import FewShot, get_supervised_dataset_dicts

dataloader.train.dataset._target_ = get_supervised_dataset_dicts
dataloader.train.dataset.supervision = LazyCall(FewShot)(
    shots=2, categories=["red"], seed="${train.seed}", ignore=True, file=None
)
"""
    )
    return tiny_recipe


def trained_on(recipe, *overrides):
    dataset = instantiate(apply_overrides(get_config(recipe), overrides).dataloader.train.dataset)
    return [one["id"] for record in dataset for one in record["annotations"] if "ignored" not in one]


def test_a_list_gives_the_shots_of_a_seed_to_any_run(tool, recipe, tmp_path):
    path = tmp_path / "shots.json"
    code, output, _ = tool(path, "--config-file", recipe, "train.seed=1")
    assert code == 0
    assert f"wrote {path}: 2 shots in 2 images, seed 1" in output
    assert [line.split() for line in output.splitlines() if "red" in line] == [["red", "2", "2"]]
    content = json.loads(path.read_text())
    assert (content["shots"], content["seed"], content["categories"]) == (2, 1, ["red"])
    listed = [one["id"] for image in content["images"] for one in image["annotations"]]
    assert trained_on(recipe, "train.seed=1") == listed
    # Many seeds agree.
    seed = next(f"train.seed={seed}" for seed in range(2, 30) if trained_on(recipe, f"train.seed={seed}") != listed)
    assert trained_on(recipe, seed, f"{FILE}={path}") == listed
    copy = tmp_path / "copy.json"
    assert tool(copy, "--config-file", recipe, f"{FILE}={path}")[0] == 0
    assert copy.read_text() == path.read_text()


def test_mistakes(tool, recipe, tmp_path):
    path = tmp_path / "shots.json"
    few = "dataloader.train.dataset.supervision.shots"
    for arguments, words in (
        ([tmp_path / "shots.txt"], "must end in .json"),
        ([path, f"{few}=9"], "too few instances with mask"),
        ([path, f"{FILE}={tmp_path / 'nowhere.json'}"], "no list of shots"),
    ):
        code, _, error = tool(arguments[0], "--config-file", recipe, *arguments[1:])
        assert (code, words in error) == (2, True), error
    code, _, error = tool(path, "--config-file", "Baselines/mask_rcnn_narrow_fpn_occshapes_quick")
    assert (code, "is no FewShot" in error) == (2, True)
    assert not path.exists()
