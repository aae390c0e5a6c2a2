import pytest
import torch

from instseg_d2.inpainting.generator.shift import TemporalShift


def impulse(length=9, at=4, channels=8):
    maps = torch.zeros(1, length, channels, 2, 2)
    maps[:, at] = torch.arange(1.0, channels + 1).view(-1, 1, 1)
    return maps


def reached(maps, channels):
    return maps[0, :, channels].abs().amax(dim=(1, 2, 3)).nonzero().flatten().tolist()


def test_starts_as_a_shift_by_one_frame():
    maps = torch.randn(2, 5, 8, 3, 3)
    shifted = TemporalShift()(maps)
    assert shifted[:, :-1, :2].equal(maps[:, 1:, :2])
    assert shifted[:, 1:, 2:4].equal(maps[:, :-1, 2:4])
    assert shifted[:, -1, :2].eq(0).all()
    assert shifted[:, 0, 2:4].eq(0).all()
    assert shifted[:, :, 4:].equal(maps[:, :, 4:])


@pytest.mark.parametrize(("width", "reach"), [(3, 1), (5, 2), (7, 3)])
def test_impulse_reaches_n_frames(width, reach):
    shift = TemporalShift(width=width)
    torch.nn.init.uniform_(shift.filters, 0.5, 1.0)
    out = shift(impulse())
    assert reached(out, slice(0, 4)) == list(range(4 - reach, 4 + reach + 1))
    assert reached(out, slice(4, 8)) == [4]


def test_filter_is_a_correlation_along_time():
    shift = TemporalShift()
    shift.filters.data = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.0, 10.0, 0.0, 0.0]])
    out = shift(impulse(at=4))
    # Frame t gets tap k from frame t + k - 2.
    assert out[0, :, 0, 0, 0].tolist() == [0, 0, 5, 4, 3, 2, 1, 0, 0]
    assert out[0, :, 2, 0, 0].tolist() == [0, 0, 0, 0, 30, 0, 0, 0, 0]


@pytest.mark.parametrize("at", [0, 8])
def test_zeros_beyond_the_ends(at):
    shift = TemporalShift()
    torch.nn.init.ones_(shift.filters)
    constant = torch.ones(1, 9, 4, 1, 1)
    assert shift(constant)[0, :, 0, 0, 0].tolist() == [3, 4, 5, 5, 5, 5, 5, 4, 3]
    # No wrap around: an impulse at one end does not come out at the other.
    out = shift(impulse(at=at))
    assert max(abs(index - at) for index in reached(out, slice(0, 4))) == 2


def test_fixed_groups():
    shift = TemporalShift(offsets=(-2, -1, 1, 2), share=1 / 8, learnable=False)
    assert list(shift.parameters()) == []
    assert "filters" in shift.state_dict()
    out = shift(impulse())
    assert [reached(out, slice(c, c + 1)) for c in range(8)] == [[6], [5], [3], [2], [4], [4], [4], [4]]


@pytest.mark.parametrize("length", [1, 2])
def test_clips_shorter_than_the_filter(length):
    shift = TemporalShift(width=7)
    torch.nn.init.ones_(shift.filters)
    assert shift(torch.ones(1, length, 4, 1, 1))[0, :, 0, 0, 0].tolist() == [length] * length


def test_five_channels():
    maps = torch.randn(1, 3, 5, 2, 2)
    assert TemporalShift()(maps)[:, :, 2:].equal(maps[:, :, 2:])


def test_input_stays_as_it_is():
    maps = torch.randn(1, 4, 8, 2, 2, requires_grad=True)
    before = maps.detach().clone()
    # The input is used again, as by gate and identity: an in-place shift would break its gradient.
    (TemporalShift()(maps) * maps).sum().backward()
    assert maps.detach().equal(before)
    assert maps.grad.isfinite().all()


def test_gradients_of_input_and_filters():
    shift = TemporalShift().double()
    maps = torch.randn(1, 4, 4, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda m, f: torch.func.functional_call(shift, {"filters": f}, (m,)),
        (
            maps,
            shift.filters.detach().clone().requires_grad_(),
        ),
    )


def test_clips_do_not_meet():
    maps = torch.randn(3, 4, 8, 2, 2)
    order = torch.tensor([2, 0, 1])
    shift = TemporalShift()
    assert shift(maps[order]).equal(shift(maps)[order])


def test_bad_filters():
    with pytest.raises(ValueError, match=r"width=4 \(must be odd\)"):
        TemporalShift(width=4)
    with pytest.raises(ValueError, match=r"offsets=\[2\]"):
        TemporalShift(width=3, offsets=(2,))
    with pytest.raises(ValueError, match="more than all channels"):
        TemporalShift(offsets=(-1, 1), share=0.6)
