import pytest
import torch

from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.windows import Window, blend, neighbor_windows, sliding_windows, stack_frames


def test_neighbor_windows_of_sttn():
    windows = neighbor_windows(25)
    assert [window.frames for window in windows] == [
        tuple(range(6)),
        tuple(range(11)),
        tuple(range(5, 16)),
        tuple(range(10, 21)),
        tuple(range(15, 25)),
    ]
    assert [window.references for window in windows] == [(10, 20), (20,), (0, 20), (0,), (0, 10)]
    assert windows[0].seen == [0, 1, 2, 3, 4, 5, 10, 20]
    assert set(windows[1].weights) == {1.0}


def test_references_are_bounded_and_near():
    windows = neighbor_windows(1000, max_references=4)
    assert max(len(window.seen) for window in windows) == 15
    middle = windows[100]
    assert 500 in middle.frames
    assert middle.references == (480, 490, 510, 520)
    assert len(neighbor_windows(1000, max_references=None)[100].references) == 99


@pytest.mark.parametrize("length", [1, 2, 15, 16, 22, 31])
@pytest.mark.parametrize("make", [neighbor_windows, sliding_windows])
def test_windows_cover_every_clip(make, length):
    windows = make(length)
    assert sorted({index for window in windows for index in window.frames}) == list(range(length))
    assert all(not set(window.references) & set(window.frames) for window in windows)
    assert all(weight > 0 for window in windows for weight in window.weights)


def test_sliding_windows():
    assert sliding_windows(15) == [Window(tuple(range(15)), (), (1.0,) * 15)]
    windows = sliding_windows(10, size=5, stride=2)
    assert [window.frames[0] for window in windows] == [0, 2, 4, 5]
    assert windows[0].weights == (1.0, 2.0, 3.0, 2.0, 1.0)
    assert sliding_windows(0) == neighbor_windows(0) == []


def test_bad_windows():
    with pytest.raises(InpaintingError, match="reach=5, use 6"):
        neighbor_windows(20, stride=7)
    with pytest.raises(InpaintingError, match="positive"):
        neighbor_windows(20, reference_stride=0)
    with pytest.raises(InpaintingError, match="size=4, stride=5"):
        sliding_windows(20, size=4, stride=5)


def test_blend_is_the_weighted_mean_and_streams():
    windows = [Window((0, 1), (), (1.0, 1.0)), Window((1, 2), (), (3.0, 1.0)), Window((2, 3), (), (1.0, 1.0))]
    calls = []

    def predict(window):
        calls.append(window.frames)
        return torch.full((1, 2, 1, 1, 1), float(len(calls)))

    results = blend(windows, predict)
    index, frame = next(results)
    assert (index, frame.item(), len(calls)) == (0, 1.0, 1)
    index, frame = next(results)
    assert (index, frame.item(), len(calls)) == (1, (1.0 + 3 * 2.0) / 4, 2)
    assert [(index, frame.item()) for index, frame in results] == [(2, 2.5), (3, 3.0)]


def test_windows_of_a_network_that_looks_nowhere_change_nothing():
    clip = torch.randn(2, 23, 1, 3, 4)
    for windows in (neighbor_windows(23), sliding_windows(23, size=6)):
        blended = stack_frames(blend(windows, lambda window: clip[:, list(window.frames)]), 23)
        torch.testing.assert_close(blended, clip)


def test_missing_frames_are_an_error():
    with pytest.raises(InpaintingError, match="must cover it"):
        stack_frames([(0, torch.zeros(1, 1, 2, 2))], 2)
