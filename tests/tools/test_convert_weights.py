import hashlib
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.checkpoint import CheckpointMismatchError, load_weights
from instseg_d2.model_zoo import config_path, get_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(tool, module, monkeypatch, tmp_path, tiny_recipe):
    """With one more format: `made_up` puts `net.` before the names of the tiny recipe, and counts `steps`."""

    def convert(state):
        if strange := [name for name in state if not name.startswith("net.")]:
            raise CheckpointMismatchError(f"no part of it: {', '.join(strange)}")
        return {name.removeprefix("net."): value for name, value in state.items()}

    wider = tmp_path / "wider.py"
    wider.write_text(tiny_recipe.read_text() + "\nmodel.roi_heads.box_head.fc_dims = [40]\n")
    made_up = module.Format("Made up.", convert, (str(wider), str(tiny_recipe)), counters=("steps",))
    monkeypatch.setitem(module.FORMATS, "made_up", made_up)
    return tool


@pytest.fixture
def state(tiny_recipe):
    model = instantiate(get_config(tiny_recipe).model)
    return {f"net.{name}": value for name, value in model.state_dict().items()}


@pytest.fixture
def source(tmp_path, state):
    path = tmp_path / "theirs.pth"
    torch.save({"model": state}, path)
    return path


def test_weights_are_converted_for_the_recipe_that_they_fit(tool, state, tiny_recipe, tmp_path):
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save({"model": {**state, "net.steps": torch.tensor(7)}, "optimizer": {"lr": 0.1}}, source)
    code, output, _ = tool("--from", "made_up", source, target)
    assert code == 0
    assert f"{source}: {len(state) + 1} tensors" in output
    assert f"{tiny_recipe}: {len(state)} tensors" in output
    assert f"wrote {target}" in output
    written = torch.load(target, weights_only=True)
    assert written["converted_from"] == {
        "format": "made_up",
        "file": "theirs.pth",
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "recipe": str(tiny_recipe),
    }
    assert set(written) == {"model", "converted_from"}
    assert {f"net.{name}" for name in written["model"]} == set(state)
    model = instantiate(get_config(tiny_recipe).model)
    load_weights(model, str(target))
    assert torch.equal(model.backbone.fpn_output3.weight, state["net.backbone.fpn_output3.weight"])


def test_overrides_are_of_the_named_recipe(tool, source, tiny_recipe, tmp_path):
    target = tmp_path / "ours.pth"
    options = ["--from", "made_up", source, target, "--config-file", tmp_path / "wider.py"]
    assert tool(*options)[0] == 2
    code, _, _ = tool(*options, "model.roi_heads.box_head.fc_dims=[32]")
    assert code == 0
    recipe = torch.load(target, weights_only=True)["converted_from"]["recipe"]
    assert recipe == f"{tmp_path / 'wider.py'} model.roi_heads.box_head.fc_dims=[32]"


def test_what_does_not_fit_is_named_and_not_written(tool, state, tiny_recipe, tmp_path):
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    target.write_text("older")
    del state["net.backbone.fpn_output3.weight"], state["net.backbone.fpn_output3.bias"]
    state["net.more.weight"] = torch.zeros(1)
    state["net.backbone.fpn_output4.bias"] = torch.zeros(3)
    torch.save(state, source)
    code, output, error = tool("--from", "made_up", source, target)
    assert code == 2
    assert "wrote" not in output
    assert f"do not fit the model of {tiny_recipe}, nor {tmp_path / 'wider.py'}; nothing was written" in error
    assert "missing in the file (2):\n  backbone.fpn_output3.{bias, weight}\n" in error
    assert "without a place in the model (1):\n  more.weight\n" in error
    assert "of another shape (1):\n  backbone.fpn_output4.bias: file (3,), model (16,)\n" in error
    assert "--config-file" in error
    assert target.read_text() == "older"


def test_names_of_another_code_base(tool, state, tmp_path):
    torch.save({**state, "body.weight": torch.zeros(1)}, tmp_path / "theirs.pth")
    code, _, error = tool("--from", "made_up", tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert (code, "no part of it: body.weight" in error) == (2, True)
    assert not (tmp_path / "ours.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "nobody", "theirs.pth", "ours.pth"], "invalid choice: 'nobody'"),
        (["theirs.pth", "ours.pth"], "--from"),
        (["--from", "made_up", "nowhere.pth", "ours.pth"], "No such file or directory: 'nowhere.pth'"),
        (["--from", "made_up", "theirs.pth", "ours.pkl"], "must end in .pth"),
        (["--from", "made_up", "theirs.pth", "./theirs.pth"], "is the file of the authors"),
        (["--from", "made_up", "theirs.pth", "no/ours.pth"], "there is no folder no"),
        (["--from", "made_up", "theirs.pth", "ours.pth", "model.x=1"], "overrides need the recipe"),
        (["--from", "made_up", "theirs.pth", "ours.pth", "--config-file", "no_recipe"], "no recipe named 'no_recipe'"),
        (
            ["--from", "made_up", "theirs.pth", "ours.pth", "--config-file", "tiny.py", "model.x=1"],
            "has no key 'model.x'",
        ),
        (["--from", "made_up", "tiny.py", "ours.pth"], "tiny.py is damaged or no checkpoint"),
    ],
)
def test_mistakes(tool, source, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    before = source.read_bytes()
    code, _, error = tool(*arguments)
    assert code == 2
    assert words in error
    assert source.read_bytes() == before
    assert not (tmp_path / "ours.pth").exists()


def test_formats_name_recipes(module):
    for form in module.FORMATS.values():
        assert "\n" not in form.summary
        for recipe in form.recipes:
            assert config_path(recipe).is_file()


def test_help(tool):
    code, output, _ = tool("--help")
    assert code == 0
    for words in ("bcnet       BCNet, code of its authors", "examples:", "BCNet/bcnet_released_fcos_r101_fpn_coco_2x"):
        assert words in output


def test_a_base_stage_leaves_its_classes_behind(tool, state, tiny_recipe, tmp_path):
    """The tiny Mask R-CNN scores two categories; its masks and boxes have outputs for each."""
    base, start = tmp_path / "base.pth", tmp_path / "novel.pth"
    own = {name.removeprefix("net."): value for name, value in state.items()}
    torch.save({"model": own, "iteration": 7}, base)
    code, output, _ = tool("--from", "base_stage", base, start, "--config-file", tiny_recipe)
    assert code == 0
    assert f"{tiny_recipe}: {len(own) - 6} tensors" in output
    message = (
        "each other tensor of the model has a value\nleft out, so that training starts them anew:\n"
        "  roi_heads.box_predictor.bbox_pred.{bias, weight}\n"
        "  roi_heads.box_predictor.cls_score.{bias, weight}\n"
        "  roi_heads.mask_head.predictor.{bias, weight}\n"
    )
    assert message in output
    torch.manual_seed(5)
    model = instantiate(get_config(tiny_recipe).model)
    fresh = model.roi_heads.box_predictor.cls_score.weight.clone()
    load_weights(model, str(start), partial=True)
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, fresh)
    assert not torch.equal(fresh, own["roi_heads.box_predictor.cls_score.weight"])
    assert torch.equal(model.backbone.fpn_output3.weight, own["backbone.fpn_output3.weight"])
    del own["backbone.fpn_output3.weight"]
    torch.save({"model": own}, base)
    code, _, error = tool("--from", "base_stage", base, start, "--config-file", tiny_recipe)
    assert (code, "missing in the file (1):\n  backbone.fpn_output3.weight" in error) == (2, True)
