import pytest
import torch

from instseg_d2.inpainting.clips import from_bytes, to_bytes
from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.generator.gated_shift import OcclusionAwareBlock
from instseg_d2.inpainting.generator.losses import ReconstructionLoss
from instseg_d2.inpainting.generator.model import OcclusionAwareGenerator, compose
from instseg_d2.inpainting.generator.shift import TemporalShift
from instseg_d2.inpainting.windows import sliding_windows


def tiny(**options):
    torch.manual_seed(0)
    return OcclusionAwareGenerator(**{"shift": TemporalShift(), "width": 8, "mask_channels": 4, **options})


def num_parameters(**options):
    with torch.device("meta"):
        model = OcclusionAwareGenerator(shift=TemporalShift(), **options)
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts():
    """12.1 million with gates and 3.0 million at half the width, as LGTSM; the mask branches come on top."""
    as_lgtsm = {"gate": "plain", "gate_last": True}
    assert round(num_parameters(**as_lgtsm) / 1e6, 1) == 12.1
    assert round(num_parameters(**as_lgtsm, width=32) / 1e6, 1) == 3.0
    widths = [64, 128, 128, *[256] * 9, 128, 128, 64, 32]
    branches = sum(2 * 32 * 9 + 32 + (32 * 9 + 1) * width for width in widths)
    assert num_parameters() - num_parameters(gate="plain") == branches


def test_layout():
    with torch.device("meta"):
        model = OcclusionAwareGenerator(shift=TemporalShift())
    blocks = [module for module in model.modules() if isinstance(module, OcclusionAwareBlock)]
    assert [block.feature.kernel_size[0] for block in blocks] == [5, 4, 3, 4] + [3] * 12
    assert [block.feature.dilation[0] for block in blocks] == [1] * 6 + [2, 4, 8, 16] + [1] * 6
    assert [block.residual for block in blocks] == [False, False, True, False] + [True] * 8 + [
        False,
        True,
        False,
        False,
    ]
    assert [block.shift is None for block in blocks] == [True] + [False] * 15
    assert len({id(block.shift) for block in blocks}) == 16
    assert model(*(torch.empty(1, 5, c, 240, 432, device="meta") for c in (3, 1, 1))).shape == (1, 5, 3, 240, 432)


def test_shift_in_the_first_block_if_asked():
    assert tiny(shift_first=True).to_half[0].shift is not None
    assert all(block.shift is None for block in tiny(shift=None).modules() if isinstance(block, OcclusionAwareBlock))


@pytest.mark.parametrize("size", [(32, 48), (30, 41), (5, 7)])
def test_any_size_and_range(size):
    frames, mask = torch.rand(2, 3, 3, *size) * 2 - 1, torch.ones(2, 3, 1, *size)
    painted = tiny()(frames, mask, mask)
    assert painted.shape == frames.shape
    assert painted.abs().max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"skips": True},
        {"gate_last": True},
        {"gate": "none"},
        {"gate": "occlusion_input", "gate_masks": "visible"},
        {"residual": False, "use_spectral_norm": True},
        {"shift": None},
    ],
)
def test_variants_run_and_train(clip, options):
    model = tiny(**options)
    loss = ReconstructionLoss()(model(clip.frames, clip.visible, clip.complete), clip.clean, clip.hole, clip.complete)
    sum(loss.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_masks_change_the_result_through_the_gates_alone(clip):
    model = tiny().eval()
    maps = torch.randn(1, 3, 5, 32, 48)
    masks = torch.cat([clip.hole, clip.complete], dim=2)
    assert not model._paint(maps, masks).equal(model._paint(maps, torch.zeros_like(masks)))


def test_either_pair_of_masks(clip):
    seen = []
    for gate_masks in ("occlusion", "visible"):
        model = tiny(gate_masks=gate_masks)
        model.to_half[0].register_forward_pre_hook(lambda module, args: seen.append(args))
        model(clip.frames, clip.visible, clip.complete)
    assert seen[0][1].equal(torch.cat([clip.hole, clip.complete], dim=2))
    assert seen[1][1].equal(torch.cat([clip.visible, clip.complete], dim=2))
    grey = clip.frames * (1 - clip.hole)
    assert seen[0][0].equal(torch.cat([grey, clip.complete, clip.visible], dim=2))


def test_what_lies_in_the_hole_does_not_matter(clip):
    model = tiny().eval()
    once, twice = (model(frames, clip.visible, clip.complete) for frames in (clip.frames, clip.clean))
    inside_bar = clip.occluder * (1 - clip.complete)
    hidden_alike = torch.where(inside_bar > 0.5, clip.frames, clip.clean)
    assert not once.equal(twice)
    assert once.equal(model(hidden_alike, clip.visible, clip.complete))


def test_clips_of_a_batch_do_not_meet(clip):
    model = tiny().eval()
    batch = [torch.cat([part, part.flip(-1)]) for part in (clip.frames, clip.visible, clip.complete)]
    straight, crossed = model(*batch), model(*(part.flip(0) for part in batch))
    torch.testing.assert_close(crossed.flip(0), straight)
    torch.testing.assert_close(model(clip.frames, clip.visible, clip.complete), straight[:1])


def test_time_is_not_mixed_without_shift(clip):
    model = tiny(shift=None).eval()
    frames = clip.frames.clone()
    frames[:, 1] = 0.5
    before, after = (model(x, clip.visible, clip.complete) for x in (clip.frames, frames))
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    moved = tiny().eval()
    before, after = (moved(x, clip.visible, clip.complete) for x in (clip.frames, frames))
    assert not torch.allclose(after[:, [0, 2]], before[:, [0, 2]])


def test_untouched_pixels_are_bit_equal(clip):
    frames = from_bytes(torch.randint(0, 256, clip.frames.shape, dtype=torch.uint8))
    filled = tiny().fill(frames, clip.visible, clip.complete)
    outside = (clip.hole < 0.5).expand_as(frames)
    assert filled[outside].equal(frames[outside])
    assert to_bytes(filled)[outside].equal(to_bytes(frames)[outside])
    assert (filled != frames)[~outside].float().mean() > 0.9
    # An unknown value stays unknown, whatever the network says.
    frames[..., 0, 0] = torch.nan
    assert compose(frames, torch.zeros_like(frames), clip.hole)[..., 0, 0].isnan().all()


def test_composing_bytes():
    frames, painted = (torch.randint(0, 256, (1, 2, 3, 4, 4), dtype=torch.uint8) for _ in range(2))
    hole = (torch.rand(1, 2, 1, 4, 4) > 0.5).float()
    result = compose(frames, painted, hole)
    assert result.dtype == torch.uint8
    assert result.equal(torch.where(hole.bool().expand_as(frames), painted, frames))


def test_repainting_what_was_propagated(clip):
    model = tiny().eval()
    after = clip.visible.clone()
    after[..., 10:12, :] = clip.complete[..., 10:12, :]
    kept = model.fill(clip.clean, after, clip.complete)
    repainted = model.fill(clip.clean, after, clip.complete, hole=clip.hole)
    propagated = (after - clip.visible > 0.5).expand_as(kept)
    assert kept[propagated].equal(clip.clean[propagated])
    assert (repainted != clip.clean)[propagated].any()
    still = ~propagated
    assert kept[still].equal(repainted[still])


def test_gates_are_kept_on_request(clip):
    model = tiny(keep_aux=True)
    model(clip.frames, clip.visible, clip.complete)
    gates = model.aux["gates"]
    assert [gate.shape for gate in gates[:4]] == [(1, 3, 32, 48), (1, 3, 16, 24), (1, 3, 16, 24), (1, 3, 8, 12)]
    assert len(gates) == 16
    assert all(0 < gate.min() and gate.max() < 1 and not gate.requires_grad for gate in gates)
    model.keep_aux = False
    model(clip.frames, clip.visible, clip.complete)
    assert model.aux == {}


def test_overlapping_windows_equal_one_window_at_the_centre():
    """A frame that no end of a window reaches is the same in every window: here one block shifts."""
    model = tiny(shift=None).eval()
    model.middle[0].shift = TemporalShift()
    frames, mask = torch.rand(1, 12, 3, 8, 8) * 2 - 1, torch.zeros(1, 12, 1, 8, 8)
    complete = torch.ones_like(mask)
    frames = frames * (1 + torch.arange(12).view(1, -1, 1, 1, 1)) / 12
    visible = (torch.rand_like(mask) > 0.5).float()
    at_once = model.fill(frames, visible, complete, windows=sliding_windows(12, size=12))
    windowed = model.fill(frames, visible, complete, windows=sliding_windows(12, size=8, stride=4))
    # Windows 0..7 and 4..11: an end counts where 4 and 7 are seen from beyond.
    torch.testing.assert_close(
        windowed[:, [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]], at_once[:, [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]]
    )
    assert not torch.allclose(windowed[:, [4, 7]], at_once[:, [4, 7]])


def test_long_clip_in_windows_is_nearly_that_of_one_window_at_the_centre():
    model = tiny().eval()
    frames, visible = torch.rand(1, 24, 3, 8, 8) * 2 - 1, (torch.rand(1, 24, 1, 8, 8) > 0.5).float()
    complete = torch.ones_like(visible)
    at_once = model.fill(frames, visible, complete, windows=sliding_windows(24, size=24))
    error = (model.fill(frames, visible, complete) - at_once).abs().amax(dim=(0, 2, 3, 4))
    painted = at_once[(visible < 0.5).expand_as(at_once)].abs().max()
    # Windows 0..14, 7..21 and 9..23: these frames are far from all ends but those of the clip, which all share.
    assert error[[3, 15, 16]].max() < 0.01 * painted
    assert error[7] > 0.01 * painted


def test_learns_to_fill_a_hole(clip):
    frames, clean, visible, complete, hole = (
        part[:, :2, :, :24, 8:40] for part in (clip.frames, clip.clean, clip.visible, clip.complete, clip.hole)
    )
    model = tiny(dilations=(2,))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    criterion = ReconstructionLoss()
    values = []
    for _ in range(30):
        losses = criterion(model(frames, visible, complete), clean, hole, complete)
        values.append(losses["loss_inpaint_hole"].item())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert values[-1] < 0.8 * values[0]


def test_autocast(clip):
    model = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        painted = model(clip.frames, clip.visible, clip.complete)
    assert painted.dtype == torch.float32
    painted.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    exact = model(clip.frames, clip.visible, clip.complete)
    assert (painted - exact).abs().max() < 0.1


def test_bad_input(clip):
    with pytest.raises(InpaintingError, match="complete must be"):
        tiny()(clip.frames, clip.visible, clip.complete[..., :-1])
    with pytest.raises(InpaintingError, match="must cover"):
        tiny().fill(clip.frames, clip.visible, clip.complete, windows=sliding_windows(2))
    with pytest.raises(ValueError, match="gate_masks='hole': one of occlusion, visible"):
        tiny(gate_masks="hole")
    with pytest.raises(ValueError, match="gate='soft'"):
        tiny(gate="soft")
