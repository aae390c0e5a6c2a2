"""PCAN's frame level and its rivals: what they compute, what they keep, what they train."""

import copy

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from torch import nn

from instseg_d2.layers.prototypes import cluster, read, unit_length, weighted_means
from instseg_d2.modeling.meta_arch.pcan.attention import PrototypicalAttention, PrototypicalFilter
from instseg_d2.modeling.meta_arch.pcan.frame_attention import FrameAttention
from instseg_d2.modeling.meta_arch.pcan.rivals import SpaceTimeMemory, TemporalSelfAttention

CHANNELS = 8
ATTENTIONS = {
    "prototypical": lambda: PrototypicalAttention(channels=CHANNELS, num_prototypes=4, iterations=2),
    "widths": lambda: PrototypicalAttention(
        channels=CHANNELS, key_channels=6, value_channels=5, num_prototypes=4, iterations=2, normalize_keys=True
    ),
    "non-local": lambda: SpaceTimeMemory(channels=CHANNELS, key_channels=6, value_channels=5),
    "transformer": lambda: TemporalSelfAttention(channels=CHANNELS, num_heads=2, dim_feedforward=12),
}
TRAINED = pytest.mark.parametrize("name", list(ATTENTIONS))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(batch=2, size=(8, 12), channels=CHANNELS):
    """P3 to P6."""
    height, width = size
    return {f"p{i + 3}": torch.randn(batch, channels, height >> i, width >> i) for i in range(4)}


def busy(module):
    """No output layer at 0, so that the memory is seen in the result."""
    for name, parameter in module.named_parameters():
        if "output" in name:
            nn.init.normal_(parameter, std=0.3)
    return module


@TRAINED
@pytest.mark.parametrize("joined", [False, True])
def test_levels_are_replaced_and_the_memory_is_seen(name, joined):
    model = busy(FrameAttention(attention=ATTENTIONS[name](), length=3, joined=joined)).eval()
    memory, frame = model.new_memory(), maps()
    for _ in range(3):
        memory.append(model(maps(), memory)[1])
    assert len(memory) == 2
    fused, entry = model(frame, memory)
    assert list(fused) == list(frame)
    assert fused["p6"] is frame["p6"]
    alone, _ = model(frame, [])
    for level in ("p3", "p4", "p5"):
        assert fused[level].shape == frame[level].shape
        assert not torch.allclose(fused[level], alone[level], atol=1e-6)
    assert set(entry) == ({"joined"} if joined else {"p3", "p4", "p5"})
    # Of a longer memory the last two are read.
    longer, _ = model(frame, [model.encode(maps()), *memory])
    assert torch.equal(longer["p3"], fused["p3"])


@TRAINED
def test_a_new_attention_leaves_the_detector_as_it_is(name):
    model, frame = FrameAttention(attention=ATTENTIONS[name](), length=2), maps()
    fused, _ = model(frame, [model.encode(maps())])
    assert all(torch.equal(fused[level], frame[level]) for level in frame)


def test_length_one_is_no_attention():
    model, frame = FrameAttention(attention=ATTENTIONS["prototypical"](), length=1), maps()
    assert not list(model.parameters())
    memory = model.new_memory()
    fused, entry = model(frame, memory)
    memory.append(entry)
    assert all(fused[level] is frame[level] for level in frame)
    assert len(memory) == 0
    assert model.flops([96, 24, 6]) == 0


@TRAINED
def test_gradients_reach_every_parameter_and_the_reference_frames(name):
    model = busy(FrameAttention(attention=ATTENTIONS[name](), length=3, joined=True))
    references = [maps() for _ in range(2)]
    for level in (level for frame in references for level in frame.values()):
        level.requires_grad_()
    fused, _ = model(maps(), [model.encode(frame) for frame in references])
    sum((fused[level] * torch.randn_like(fused[level])).sum() for level in ("p3", "p4", "p5")).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    assert all(frame["p3"].grad.abs().max() > 0 for frame in references)
    assert references[0]["p6"].grad is None


def test_gradients_reach_keys_by_clustering_too():
    """Without the current frame's keys, which `read` trains, those of the memory still learn."""
    attention = ATTENTIONS["prototypical"]()
    entry = attention.encode(torch.randn(1, 30, CHANNELS))
    (entry.values * torch.randn_like(entry.values)).sum().backward()
    assert attention.key.weight.grad.abs().max() > 0
    assert attention.value.weight.grad.abs().max() > 0


@TRAINED
def test_separate_levels_do_not_know_each_other(name):
    model = busy(FrameAttention(attention=ATTENTIONS[name](), length=2)).eval()
    first, frame = maps(), maps()
    expected, _ = model(frame, [model.encode(first)])
    frame["p3"], first["p3"] = torch.randn_like(frame["p3"]), torch.randn_like(first["p3"])
    found, _ = model(frame, [model.encode(first)])
    assert torch.equal(found["p4"], expected["p4"])
    assert len({id(attention) for attention in model.attentions.values()}) == 3


@TRAINED
def test_videos_of_a_batch_do_not_know_each_other(name):
    model = busy(FrameAttention(attention=ATTENTIONS[name](), length=2)).eval()
    first, frame = maps(), maps()
    together, _ = model(frame, [model.encode(first)])
    alone, _ = model({k: v[:1] for k, v in frame.items()}, [model.encode({k: v[:1] for k, v in first.items()})])
    assert torch.allclose(together["p3"][:1], alone["p3"], atol=1e-5)


@TRAINED
def test_frames_may_have_other_sizes_and_autocast_keeps_the_dtype(name):
    model = busy(FrameAttention(attention=ATTENTIONS[name](), length=2, joined=True)).eval()
    first, frame = maps(size=(16, 8)), maps()
    expected, _ = model(frame, [model.encode(first)])
    half = {level: value.bfloat16() for level, value in frame.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused, _ = model(half, [model.encode(first)])
    assert fused["p3"].dtype == torch.bfloat16
    assert torch.allclose(fused["p3"].float(), expected["p3"], atol=0.1, rtol=0.1)


def test_prototypical_attention_is_the_formula():
    """Eq. 5.3 to 5.7 for one pixel, in double precision."""
    attention = busy(ATTENTIONS["prototypical"]()).eval()
    first, second, current = (torch.randn(1, 20, CHANNELS) for _ in range(3))
    with torch.no_grad():
        # Values so long that the weights of frames differ.
        attention.value.weight.mul_(20)
        result, _ = attention(current, [attention.encode(first), attention.encode(second)])
        key, value = attention.key(current)[0, 7].double(), attention.value(current)[0, 7].double()
        candidates = [value]
        for pixels in (first, second):
            means, weights = cluster(attention.key(pixels), attention.means[None], iterations=2)
            values = weighted_means(attention.value(pixels), weights)[0].double()
            density = torch.exp(-(key - means[0].double()).square().sum(dim=1) / 2)
            candidates.append(density @ values / density.sum())
        weights = torch.stack([value @ candidate for candidate in candidates]).exp()
        mixed = weights @ torch.stack(candidates) / weights.sum()
        expected = current[0, 7] + attention.output(mixed.float())
    assert 0.02 < weights[1] / weights.sum() < 0.3
    assert torch.allclose(result[0, 7], expected, atol=1e-5)


def test_non_local_attention_is_the_formula():
    attention = busy(ATTENTIONS["non-local"]()).eval()
    first, current = torch.randn(1, 20, CHANNELS), torch.randn(1, 9, CHANNELS)
    result, _ = attention(current, [attention.encode(first)])
    clip = torch.cat([first, current], dim=1)[0]
    weights = (attention.key(clip) @ attention.key(current)[0, 4]).exp()
    expected = current[0, 4] + attention.output((weights / weights.sum()) @ attention.value(clip))
    assert torch.allclose(result[0, 4], expected, atol=1e-5)


def test_transformer_layer_is_that_of_torch():
    ours = TemporalSelfAttention(channels=CHANNELS, num_layers=1, num_heads=2, dim_feedforward=12).layers[0]
    theirs = nn.TransformerEncoderLayer(CHANNELS, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
    theirs.self_attn.in_proj_weight.data = ours.in_projection.weight.data
    theirs.self_attn.in_proj_bias.data = ours.in_projection.bias.data
    theirs.self_attn.out_proj = ours.out_projection
    theirs.linear1, theirs.linear2 = ours.feedforward[0], ours.feedforward[2]
    clip = torch.randn(2, 30, CHANNELS)
    assert torch.allclose(ours(clip), theirs(clip), atol=1e-5)


def test_means_to_start_from_follow_in_training_alone():
    attention, pixels = ATTENTIONS["prototypical"](), torch.randn(2, 30, CHANNELS)
    start = attention.means.clone()
    attention.eval()(pixels, [])
    attention.train().encode(pixels)
    assert torch.equal(attention.means, start)
    _, entry = attention(pixels, [])
    expected = unit_length(0.95 * start + 0.05 * entry.means.mean(dim=0))
    assert torch.allclose(attention.means, expected, atol=1e-6)
    assert "means" in attention.state_dict()
    fixed = PrototypicalAttention(channels=CHANNELS, num_prototypes=4, momentum=1.0, normalize_means=False)
    start = fixed.means.clone()
    fixed(pixels, [])
    assert torch.equal(fixed.means, start)


@pytest.mark.parametrize("iterations", [1, 3])
def test_means_that_move_within_a_step_do_not_break_its_gradients(iterations):
    attention = PrototypicalAttention(channels=CHANNELS, num_prototypes=4, iterations=iterations)
    model, memory = busy(FrameAttention(attention=attention, length=3)), []
    for _ in range(3):
        fused, entry = model(maps(), memory)
        memory.append(entry)
    fused["p4"].square().sum().backward()
    assert model.attentions["p4"].key.weight.grad.abs().max() > 0


def test_warm_start_begins_with_the_last_frame_s_means():
    attention = PrototypicalAttention(channels=CHANNELS, num_prototypes=4, iterations=1, warm_start=True).eval()
    first, second = torch.randn(2, 1, 30, CHANNELS)
    entry = attention.encode(first)
    expected, _ = cluster(attention.key(second), entry.means, iterations=1)
    assert torch.equal(attention.encode(second, [entry]).means, expected)
    assert not torch.equal(attention.encode(second).means, expected)


def test_memory_of_prototypes_does_not_grow_with_the_frame():
    model = FrameAttention(attention=ATTENTIONS["prototypical"](), length=2)
    sizes = []
    for size in ((8, 12), (32, 48)):
        entry = model.encode(maps(1, size))
        sizes.append(sum(part.untyped_storage().nbytes() for level in entry.values() for part in level))
    assert sizes == [3 * 4 * 2 * CHANNELS * 4] * 2


@pytest.mark.parametrize("joined", [False, True])
def test_shares_tell_which_prototype_a_pixel_attends_to(joined):
    model = FrameAttention(attention=ATTENTIONS["prototypical"](), length=2, joined=joined).eval()
    frame = maps()
    shares = model.shares(frame, model.encode(maps()))
    assert {level: tuple(share.shape) for level, share in shares.items()} == {
        "p3": (2, 4, 8, 12),
        "p4": (2, 4, 4, 6),
        "p5": (2, 4, 2, 3),
    }
    assert torch.allclose(shares["p4"].sum(dim=1), torch.ones(2, 4, 6), atol=1e-5)


def reference_filter(frames, means):
    """The released frame level, written down from its description, for one level of one video."""
    memory, results = frames[0], []
    for x in frames:
        found = means
        for _ in range(3):
            z = (20 * x.new_tensor(1) * memory.T @ found).softmax(dim=1)
            found = memory @ (z / (1e-6 + z.sum(dim=0)))
            found = found / (1e-6 + found.norm(dim=0))
        x = 0.75 * x + 0.25 * (found @ (x.T @ found).softmax(dim=1).T)
        memory, means = 0.75 * x + 0.25 * memory, 0.5 * means + 0.5 * found
        results.append(x)
    return results


def test_released_filter_over_a_video():
    model = FrameAttention(in_features=["p2"], attention=PrototypicalFilter(channels=16), length=2).eval()
    frames = [3 * torch.randn(1, 16, 6, 8) for _ in range(4)]
    expected = reference_filter([x[0].flatten(1) for x in frames], model.attentions["p2"].means.T)
    memory = model.new_memory()
    for x, wanted in zip(frames, expected, strict=True):
        fused, entry = model({"p2": x}, memory)
        memory.append(entry)
        assert torch.allclose(fused["p2"][0].flatten(1), wanted, atol=1e-4)
    # A frame of another size: means go on, the average starts anew.
    _, entry = model({"p2": torch.randn(1, 16, 5, 5)}, memory)
    assert entry["p2"].pixels.shape == (1, 25, 16)
    assert not torch.allclose(entry["p2"].means, memory[-1]["p2"].means)
    assert model.shares({"p2": frames[0]}, entry)["p2"].shape == (1, 30, 6, 8)


def test_released_filter_is_for_testing_only():
    model = FrameAttention(in_features=["p3"], attention=PrototypicalFilter(channels=CHANNELS), length=2)
    frame = maps()
    fused, entry = model(frame, [model.encode(maps())])
    assert entry == {"p3": None}
    assert torch.equal(fused["p3"], frame["p3"])
    assert not list(model.parameters())


def test_filter_reads_by_dot_product():
    """One iteration on the frame itself, with the library's pieces."""
    attention = PrototypicalFilter(channels=CHANNELS, num_prototypes=3, iterations=1).eval()
    pixels = torch.randn(1, 30, CHANNELS)
    result, entry = attention(pixels, [])
    means, _ = cluster(pixels, attention.means[None], iterations=1, metric="dot")
    assert torch.allclose(result, 0.75 * pixels + 0.25 * read(pixels, means, means, metric="dot"), atol=1e-5)
    assert torch.allclose(entry.means, (attention.means + means) / 2, atol=1e-6)


def test_config_builds_it_and_copies_the_attention():
    node = L(FrameAttention)(
        in_features=["p3", "p4"], attention=L(PrototypicalAttention)(channels=CHANNELS, num_prototypes=4), length=2
    )
    model = instantiate(node)
    fused, _ = copy.deepcopy(model)(maps(), [model.encode(maps())])
    assert set(model.attentions) == {"p3", "p4"}
    assert fused["p3"].shape == (2, CHANNELS, 8, 12)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="length=0"):
        FrameAttention(attention=ATTENTIONS["non-local"](), length=0)
    with pytest.raises(ValueError, match="at least one frame and one level"):
        FrameAttention(in_features=[], attention=ATTENTIONS["non-local"](), length=2)
    model = FrameAttention(in_features=["p3", "p7"], attention=ATTENTIONS["non-local"](), length=2)
    with pytest.raises(KeyError, match=r"\['p7'\] are not among the features \['p3'"):
        model(maps(), [])
