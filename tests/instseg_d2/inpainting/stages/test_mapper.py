import pytest
import torch

from instseg_d2.inpainting.flow.backends import PairwiseFlow
from instseg_d2.inpainting.flow.harmonic import harmonic_flow
from instseg_d2.inpainting.propagation import Propagator
from instseg_d2.inpainting.stages.mapper import ClipMapper, NamedClips

MASKS = ("frames", "visible", "complete")


class Bright(PairwiseFlow):
    """As many pixels as the first frame's mean colour says: each flow is another."""

    name = "bright"

    def estimate(self, first, second):
        return first.new_full((2, *first.shape[-2:]), first.mean().item())


@pytest.fixture
def item(hidden_clips):
    return hidden_clips(1)[0]


def test_without_settings_nothing_is_added(item):
    assert ClipMapper()(item) is item


def test_observed_flow_is_of_the_frames_and_the_truth_is_that_of_the_data(item):
    before = dict(item)
    mapped = ClipMapper(flow=Bright())(item)
    assert item == before
    assert torch.equal(mapped["observed_forward_flow"][1], Bright().estimate(*item["frames"][1:]))
    assert torch.equal(mapped["observed_backward_flow"][0], Bright().estimate(*item["frames"][:2].flip(0)))
    assert torch.equal(mapped["forward_flow"], item["forward_flow"])
    assert "harmonic_forward_flow" not in mapped
    assert "propagated_frames" not in mapped


def test_data_without_flow_learn_from_that_of_the_clean_frames(item):
    del item["forward_flow"], item["backward_flow"]
    mapped = ClipMapper(flow=Bright())(item)
    assert torch.equal(mapped["forward_flow"], Bright().flows(item["clean"])[0])
    assert not torch.equal(mapped["forward_flow"], mapped["observed_forward_flow"])


def test_harmonic_flow_is_that_of_the_function(item):
    mapped = ClipMapper(flow=Bright(), harmonic=True)(item)
    observed = (flow[None] for flow in Bright().flows(item["frames"]))
    forward, backward = harmonic_flow(*observed, item["visible"][None], item["complete"][None])
    assert torch.equal(mapped["harmonic_forward_flow"], forward[0])
    assert torch.equal(mapped["harmonic_backward_flow"], backward[0])


@pytest.mark.parametrize("along", ["truth", "harmonic", "callable"])
def test_propagated_pixels_are_the_propagators(item, along):
    def reversed_flow(frames, visible, complete, forward, backward):
        return -forward, -backward

    mapped = ClipMapper(flow=Bright(), along=reversed_flow if along == "callable" else along)(item)
    prefix, sign = {"truth": ("", 1), "harmonic": ("harmonic_", 1), "callable": ("observed_", -1)}[along]
    flows = [sign * mapped[f"{prefix}{direction}_flow"][None] for direction in ("forward", "backward")]
    moved = Propagator()(*(item[name][None] for name in MASKS), *flows)
    assert torch.equal(mapped["propagated_frames"], moved.frames[0])
    assert torch.equal(mapped["propagated_visible"], moved.visible[0])
    assert torch.equal(mapped["frames"], item["frames"])


def test_true_flow_fills_with_the_truth(item):
    mapped = ClipMapper(flow=Bright(), along="truth", propagator=Propagator(reference_width=None))(item)
    filled = (mapped["propagated_visible"] * (1 - item["visible"])).expand(-1, 3, -1, -1) > 0.5
    assert filled.any()
    assert torch.allclose(mapped["propagated_frames"][filled], item["clean"][filled], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "word"), [({"flow": Bright(), "along": "flow"}, "truth"), ({"along": "truth"}, "DIS")]
)
def test_bad_settings_are_named(settings, word):
    with pytest.raises(ValueError, match=word):
        ClipMapper(**settings)


def test_clips_say_where_they_come_from(hidden_clips):
    class Track:
        video, name = "00003", "2"

    class Clips(list):
        tracks = (Track(), Track())

    named = NamedClips(names="some_set", clips=Clips(hidden_clips(2)))
    assert len(named) == 2
    assert named[1]["file_name"] == "00003/2"
    assert torch.equal(named[1]["frames"], hidden_clips(2)[1]["frames"])
