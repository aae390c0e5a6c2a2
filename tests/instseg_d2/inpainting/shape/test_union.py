import pytest
import torch

from instseg_d2.inpainting.shape.union import flow_aligned_union


def passing(step, length=8, height=32, width=72):
    """A box moves behind a standing bar; its own pixels have its flow, all others none."""
    complete = torch.zeros(1, length, 1, height, width)
    for time in range(length):
        left, top = 4 + step[0] * time, 6 + step[1] * time
        complete[:, time, :, top : top + 14, left : left + 20] = 1
    occluders = torch.zeros_like(complete)
    occluders[..., 2:30, 24:46] = 1
    visible = complete * (1 - occluders)
    vector = torch.tensor(step, dtype=torch.float32).reshape(1, 1, 2, 1, 1)
    return visible, occluders, complete, vector * visible[:, :-1], -vector * visible[:, 1:]


@pytest.mark.parametrize("reach", [1, 16])
def test_hidden_part_is_found_from_both_sides(reach):
    visible, occluders, complete, forward, backward = passing((4, 1))
    union = flow_aligned_union(visible, occluders, forward, backward, reach=reach)
    hidden = complete * (1 - visible)
    found = union * (1 - visible)
    overlap = (found * hidden).sum() / torch.maximum(found, hidden).sum()
    assert overlap > 0.95
    # At first only the past was seen: what enters the bar is found from there alone.
    assert torch.equal(union[:, 3], complete[:, 3])


def test_union_holds_the_visible_part_and_stays_behind_occluders():
    torch.manual_seed(0)
    visible = (torch.rand(2, 4, 1, 20, 24) > 0.7).float()
    occluders = (torch.rand(2, 4, 1, 20, 24) > 0.5).float()
    flows = torch.randn(2, 2, 3, 2, 20, 24) * 4
    union = flow_aligned_union(visible, occluders, flows[0], flows[1])
    assert (union >= visible).all()
    assert (union <= torch.maximum(visible, occluders)).all()
    assert union.sum() > visible.sum()


def test_motion_goes_on_while_nothing_is_seen():
    visible, occluders, complete, forward, backward = passing((4, 0), length=10)
    visible[:, 4:6] = 0
    occluders[:, 4:6] = 1
    forward[:, 4:6] = backward[:, 3:5] = 0
    union = flow_aligned_union(visible, occluders, forward, backward)
    assert (union[:, 4:6] * complete[:, 4:6]).sum() > 0.95 * complete[:, 4:6].sum()


def test_without_occluders_nothing_grows():
    visible, occluders, _, forward, backward = passing((4, 1))
    assert torch.equal(flow_aligned_union(visible, torch.zeros_like(occluders), forward, backward), visible)


def test_one_frame_and_an_object_that_is_never_seen():
    mask, flow = torch.ones(1, 1, 1, 8, 8), torch.zeros(1, 0, 2, 8, 8)
    assert torch.equal(flow_aligned_union(mask, mask, flow, flow), mask)
    nothing = torch.zeros(1, 3, 1, 8, 8)
    flow = torch.ones(1, 2, 2, 8, 8)
    assert not flow_aligned_union(nothing, nothing + 1, flow, flow).any()
