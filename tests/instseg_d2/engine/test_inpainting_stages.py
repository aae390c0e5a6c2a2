"""From checkpoints of stages to networks, and a training of each stage through `train`."""

import json

import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.checkpoint import CheckpointError
from instseg_d2.engine.inpainting_stages import join_checkpoints, load_stage, warn_of_other_flow
from instseg_d2.engine.overrides import SettingError
from instseg_d2.engine.run import evaluate_checkpoint, train
from instseg_d2.inpainting.flow.backends import DISFlow, FarnebackFlow
from instseg_d2.inpainting.flow.completion import FlowCompletion
from instseg_d2.inpainting.generator.model import OcclusionAwareGenerator
from instseg_d2.inpainting.shape.model import ShapeCompletion
from instseg_d2.model_zoo import get_config

RECIPE = "VOIN/voin_{}_tiny_occvideo_quick"
STAGES = ("shape", "flow", "content")
CLASSES = {"shape": ShapeCompletion, "flow": FlowCompletion, "content": OcclusionAwareGenerator}


@pytest.fixture
def write_stage(tmp_path):
    """Writes a checkpoint of an untrained stage: its file and weights."""

    def write(kind):
        torch.manual_seed(len(kind))
        stage = instantiate(get_config(RECIPE.format(kind)).model)
        torch.save({"model": stage.state_dict()}, tmp_path / f"{kind}.pth")
        return tmp_path / f"{kind}.pth", stage

    return write


@pytest.mark.parametrize("kind", STAGES)
def test_a_recipe_and_a_checkpoint_give_the_bare_network(write_stage, kind):
    path, stage = write_stage(kind)
    network = load_stage(RECIPE.format(kind), str(path))
    assert type(network) is CLASSES[kind]
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    for name, value in stage.networks[kind].state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_overrides_of_the_training_are_needed_again(tmp_path, write_stage):
    path, _ = write_stage("flow")
    assert (
        load_stage(RECIPE.format("flow"), str(path), overrides=["model.network.start=corrupted"]).start == "corrupted"
    )
    with pytest.raises(CheckpointError, match="another model"):
        load_stage(RECIPE.format("flow"), str(path), overrides=["model.network.network.widths=[4,8]"])


def test_three_checkpoints_are_what_the_joint_stage_starts_from(tmp_path, write_stage):
    written = {kind: write_stage(kind) for kind in STAGES}
    target = tmp_path / "joint.pth"
    join_checkpoints(str(target), **{kind: str(path) for kind, (path, _) in written.items()})
    recipe = RECIPE.format("joint")
    joint = instantiate(get_config(recipe).model)
    joint.load_state_dict(torch.load(target)["model"])
    for kind, (_, stage) in written.items():
        for name, value in stage.networks[kind].state_dict().items():
            assert torch.equal(joint.networks[kind].state_dict()[name], value)
    assert type(load_stage(recipe, str(target), part="flow")) is FlowCompletion
    with pytest.raises(SettingError, match="shape, flow, content"):
        load_stage(recipe, str(target))


def test_wrong_stages_are_named(tmp_path, write_stage):
    path, _ = write_stage("shape")
    with pytest.raises(SettingError, match="trains shape, not 'flow'"):
        load_stage(RECIPE.format("shape"), str(path), part="flow")
    with pytest.raises(SettingError, match="DetectThenSegment"):
        load_stage("Baselines/fcos_mask_narrow_fpn_occshapes_quick", str(path))
    with pytest.raises(SettingError, match="no checkpoint of the stage 'content'"):
        join_checkpoints(str(tmp_path / "joint.pth"), content=str(path))
    with pytest.raises(SettingError, match="no stage 'colour'"):
        join_checkpoints(str(tmp_path / "joint.pth"), colour=str(path))
    assert not (tmp_path / "joint.pth").exists()


@pytest.fixture
def tiny_training(stage_node, tmp_path):
    """From a kind to a recipe of four iterations on clips of 32 x 48 px."""

    def make(kind):
        cfg = get_config(RECIPE.format(kind))
        cfg.model = stage_node(kind)
        data = cfg.dataloader
        for split, length in (("train", 2), ("test", 3)):
            data[split].dataset.clips.update(size=(32, 48), length=length)
            data[split].dataset.clips.tracks.update(videos=1, frames=4, size=(32, 48))
            data[split].num_workers = 0
        data.train.total_batch_size = 2
        cfg.train.update(max_iter=4, device="cpu", output_dir=str(tmp_path / kind), log_period=1)
        cfg.train.checkpointer.period = 2
        cfg.train.hooks[0].update(period=2, clips=1)
        return cfg

    return make


FIGURES = {
    "shape": {"IoU", "IoU_hidden"},
    "flow": {"EPE"},
    "content": {"PSNR", "SSIM", "PSNR_hole"},
    "joint": {"IoU", "EPE", "PSNR"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FIGURES)
def test_train(tiny_training, tmp_path, kind):
    results = train(tiny_training(kind))
    out = tmp_path / kind
    assert FIGURES[kind] <= results["inpainting"].keys()
    assert json.loads((out / "results.json").read_text()) == results
    assert {"model_0000001.pth", "model_final.pth", "report.html"} <= {path.name for path in out.iterdir()}
    adversarial = ("", "_attention") if kind in ("content", "joint") else ("",)
    drawn = {path.name for path in (out / "samples").iterdir()}
    assert drawn == {f"{step:07d}_0{what}.png" for step in (2, 4) for what in adversarial}
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert len({frozenset(name for name in line if "loss" in name) for line in lines if "lr" in line}) == 1
    saved = torch.load(out / "model_final.pth", weights_only=False)
    if kind in ("content", "joint"):
        assert {name.partition(".")[0] for name in saved["model"]} == {"painter", "critics"}
    parameters = len(list(instantiate(tiny_training(kind).model).parameters()))
    assert len(saved["trainer"]["optimizer"]["state"]) == parameters


@pytest.mark.slow
def test_resume_and_evaluate(tiny_training, tmp_path):
    out, tested = tmp_path / "content", tmp_path / "tested"
    train(tiny_training("content"))
    longer = tiny_training("content")
    longer.train.max_iter = 5
    train(longer, resume=True)
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    iterations = [line["iteration"] for line in lines if "total_loss" in line]
    assert sorted(iterations) == list(range(5))

    cfg = tiny_training("content")
    tested.mkdir()
    cfg.train.update(init_checkpoint=str(out / "model_final.pth"), output_dir=str(tested))
    final = json.loads((out / "results.json").read_text())["inpainting"]
    assert evaluate_checkpoint(cfg)["inpainting"] == pytest.approx(final)
    # What needs no weights, in the place of the network's answers.
    cfg.dataloader.evaluator.instead = "weight-free"
    assert evaluate_checkpoint(cfg)["inpainting"]["PSNR_hole"] != pytest.approx(final["PSNR_hole"])


def test_flow_of_another_backend_than_in_the_training_is_warned_of(caplog):
    recipe = "VOIN/voin_flow_base_ytvoi"
    warn_of_other_flow(recipe, DISFlow())
    warn_of_other_flow("VOIN/voin_shape_base_ytvoi", FarnebackFlow())
    assert not caplog.records
    warn_of_other_flow(recipe, FarnebackFlow())
    assert "of DISFlow and now gets that of FarnebackFlow" in caplog.text
