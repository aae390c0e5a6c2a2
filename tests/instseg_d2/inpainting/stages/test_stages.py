import pytest
import torch

from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.flow.backends import DISFlow
from instseg_d2.inpainting.flow.harmonic import harmonic_flow
from instseg_d2.inpainting.stages.mapper import ClipMapper
from instseg_d2.inpainting.stages.stage import Evidence, stack_items

KINDS = ("shape", "flow", "content", "joint")


@pytest.fixture
def clips(hidden_clips):
    mapper = ClipMapper(flow=DISFlow(), harmonic=True, along="truth")
    return [mapper(item) for item in hidden_clips(2)]


def without_holes(items):
    return [
        {
            **item,
            "frames": item["clean"],
            "visible": item["complete"],
            "hole": torch.zeros_like(item["hole"]),
            "eraser": torch.zeros_like(item["eraser"]),
            "propagated_frames": item["clean"],
            "propagated_visible": item["complete"],
        }
        for item in items
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_have_the_same_names_and_gradients_reach_all(make_stage, clips, kind):
    stage = make_stage(kind)
    losses = stage(clips)
    assert losses
    assert all(name.startswith("loss_") and value.isfinite() for name, value in losses.items())
    sum(losses.values()).backward()
    learning = stage.painter if kind in ("content", "joint") else stage
    assert all(parameter.grad is not None for parameter in learning.parameters())
    assert stage(without_holes(clips)).keys() == losses.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_one_a_clip(make_stage, clips, kind):
    stage = make_stage(kind).eval()
    found = stage(clips)
    shapes = {"complete": (3, 1, 32, 48), "frames": (3, 3, 32, 48)}
    expected = {"shape": {"complete"}, "flow": {"flows"}, "content": {"frames"}}
    assert len(found) == 2
    for output in found:
        assert output.keys() == expected.get(kind, {"complete", "flows", "frames"})
        assert all(tuple(output[name].shape) == shapes[name] for name in output if name != "flows")
        assert all(tuple(flow.shape) == (2, 2, 32, 48) for flow in output.get("flows", ()))
    # Clips of a batch do not meet.
    alone = stage(clips[1:])[0]
    for name in alone:
        torch.testing.assert_close(alone[name], found[1][name], rtol=1e-4, atol=1e-5)


def test_networks_are_the_bare_ones(make_stage):
    assert {kind: set(make_stage(kind).networks) for kind in KINDS} == {
        "shape": {"shape"},
        "flow": {"flow"},
        "content": {"content"},
        "joint": {"shape", "flow", "content"},
    }


@pytest.mark.parametrize("kind", ["shape", "content", "joint"])
def test_bfloat16(make_stage, clips, kind):
    stage = make_stage(kind)
    with torch.autocast("cpu", torch.bfloat16):
        losses = stage(clips)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


def test_shape_grows_inside_known_occluders_alone(make_stage, clips):
    stage = make_stage("shape", network__encoder__in_channels=5, known_occluders=True, network__threshold=0.0).eval()
    for item, output in zip(clips, stage(clips), strict=True):
        assert torch.equal(output["complete"], torch.maximum(item["visible"], item["eraser"]))
    stage.known_occluders = False
    assert stage(clips)[0]["complete"].all()


def test_flow_starts_from_what_the_loader_gives(make_stage, clips):
    """An untrained network adds nothing, so the start is seen."""
    observed = [clips[0][f"observed_{direction}_flow"] for direction in ("forward", "backward")]
    stage = make_stage("flow", network__start="corrupted").eval()
    assert all(torch.equal(*pair) for pair in zip(stage(clips)[0]["flows"], observed, strict=True))

    stage = make_stage("flow", network__start="harmonic").eval()
    masks = clips[0]["visible"][None], clips[0]["complete"][None]
    harmonic = harmonic_flow(*(flow[None] for flow in observed), *masks)
    # By the loader, and by the network itself from the observed flow.
    for found in (
        stage(clips)[0]["flows"],
        [flow[0] for flow in stage.network(clips[0]["frames"][None], *masks, *(flow[None] for flow in observed))],
    ):
        assert all(torch.equal(one, other[0]) for one, other in zip(found, harmonic, strict=True))
    assert not torch.equal(harmonic[0][0], observed[0])


def test_only_the_hole_is_painted_and_propagated_pixels_stay(make_stage, clips):
    stage = make_stage("content").eval()
    for item, output in zip(clips, stage(clips), strict=True):
        hole = item["complete"] * (1 - item["propagated_visible"])
        kept = (hole < 0.5).expand_as(item["frames"])
        assert torch.equal(output["frames"][kept], item["propagated_frames"][kept])
        assert not torch.equal(output["frames"][~kept], item["propagated_frames"][~kept])


def test_without_flow_the_whole_hole_is_painted(make_stage, hidden_clips):
    items = hidden_clips(2)
    stage = make_stage("content")
    assert all(value.isfinite() for value in stage(items).values())
    for item, output in zip(items, stage.eval()(items), strict=True):
        kept = (item["hole"] < 0.5).expand_as(item["frames"])
        assert torch.equal(output["frames"][kept], item["frames"][kept])
        assert (output["frames"][~kept] != item["frames"][~kept]).float().mean() > 0.9


def test_discriminators_are_shown_clips_that_differ_in_the_hole_alone(make_stage, clips):
    stage = make_stage("content")
    stacked = stack_items(clips, "cpu")
    _, evidence = stage.painter(stacked)
    hole = (stacked["complete"] * (1 - stacked["propagated_visible"]) > 0.5).expand_as(evidence.real)
    assert torch.equal(evidence.real[~hole], evidence.fake[~hole])
    assert not torch.equal(evidence.real[hole], evidence.fake[hole])
    # The occluder goes on beside the object; the object is clean.
    inside = (stacked["complete"] > 0.5).expand_as(evidence.real)
    assert torch.equal(evidence.real[inside], stacked["clean"][inside])
    assert torch.equal(evidence.real[~inside], stacked["frames"][~inside])
    assert evidence.fake.requires_grad
    assert not evidence.detached().fake.requires_grad


def test_either_discriminator_may_be_left_out(make_stage, clips):
    stacked = stack_items(clips, "cpu")
    evidence = Evidence(stacked["clean"], stacked["frames"], stacked["complete"], stacked["class_index"])
    both = make_stage("content").critics(evidence)
    assert set(both) == {"loss_patch_discriminator", "loss_class_discriminator"}
    alone = make_stage("content", critics__by_class=None).critics
    assert set(alone(evidence)) == {"loss_patch_discriminator"}
    assert set(alone.judge(evidence)) == {"loss_patch_adversarial"}
    nobody = make_stage("content", critics__by_class=None, critics__patch=None).critics
    assert nobody(evidence) == nobody.judge(evidence) == {}


def test_joint_stages_work_on_what_the_ones_before_make(make_stage, clips):
    stage = make_stage("joint").eval()
    # An empty answer of the shape stage: then nothing is to be completed.
    for parameter in stage.painter.shape.network.fusion.fuse[-1].parameters():
        torch.nn.init.constant_(parameter, 0.0)
    stage.painter.shape.network.fusion.fuse[-1].bias.data.fill_(-9.0)
    output = stage(clips)[0]
    assert torch.equal(output["complete"], clips[0]["visible"])
    assert torch.equal(output["frames"], clips[0]["frames"])


def test_joint_training_refuses_a_start_that_needs_masks(make_stage):
    with pytest.raises(ValueError, match="corrupted"):
        make_stage("joint", painter__flow__network__start="harmonic")


def test_missing_parts_are_named(make_stage, hidden_clips):
    items = hidden_clips(2)
    with pytest.raises(InpaintingError, match=r"no observed_forward_flow.*dataloader\.\*\.mapper"):
        make_stage("flow", network__start="corrupted")(items)
    with pytest.raises(InpaintingError, match="same parts"):
        make_stage("shape")([items[0], *hidden_clips(1, length=2)])
    with pytest.raises(InpaintingError, match="one frame"):
        make_stage("flow")(hidden_clips(2, length=1))
    del items[0]["eraser"]
    with pytest.raises(InpaintingError, match="no eraser"):
        make_stage("shape")([items[0]])
