import pytest
import torch

from instseg_d2.inpainting.baseline import WeightFreeInpainter, telea_fill
from instseg_d2.inpainting.clips import from_bytes
from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.flow.backends import DISFlow, FlowBackend
from instseg_d2.inpainting.samples import Sample


class Constant(FlowBackend):
    """What it is told, everywhere."""

    name = "constant"

    def __init__(self, step):
        self.step = torch.tensor(step, dtype=torch.float32).reshape(1, 2, 1, 1)

    def flows(self, frames, start=0):
        flow = self.step.expand(len(frames) - 1, 2, *frames.shape[-2:])
        return flow, -flow


def passing(length=8, height=32, width=72):
    """A textured box moves by (4, 0) px behind a bar: frames, masks, and the frames without the bar."""
    torch.manual_seed(0)
    texture = torch.randint(0, 256, (3, 14, 20), dtype=torch.uint8)
    clean = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8).repeat(length, 1, 1, 1)
    complete = torch.zeros(1, length, 1, height, width)
    for time in range(length):
        clean[time, :, 8:22, 4 + 4 * time : 24 + 4 * time] = texture
        complete[:, time, :, 8:22, 4 + 4 * time : 24 + 4 * time] = 1
    occluders = torch.zeros_like(complete)
    occluders[..., 26:34] = 1
    clean = from_bytes(clean)[None]
    frames = torch.where(occluders > 0, torch.tensor(0.5), clean)
    return frames, complete * (1 - occluders), complete, occluders, clean


@pytest.mark.parametrize("given", ["complete", "occluders"])
def test_box_behind_a_bar(given):
    frames, visible, complete, occluders, clean = passing()
    masks = {"complete": complete} if given == "complete" else {"occluders": occluders}
    done = WeightFreeInpainter(flow=Constant((4, 0)))(frames, visible, **masks)
    torch.testing.assert_close(done.complete, complete)
    outside = (complete - visible == 0).expand_as(frames)
    assert torch.equal(done.frames[outside], frames[outside])
    moved = torch.maximum(done.from_past, done.from_future)
    assert torch.equal(moved + done.painted + done.left, complete - visible)
    assert moved.sum() > 0.8 * (complete - visible).sum()
    assert ((done.frames - clean) * moved).abs().max() < 1e-5
    assert not done.left.any()


def test_estimated_flow_beats_leaving_the_bar(clip):
    done = WeightFreeInpainter(flow=DISFlow())(clip.frames, clip.visible, clip.complete)
    error, before = (((frames - clip.clean) * clip.hole).abs().sum() for frames in (done.frames, clip.frames))
    assert error < 0.7 * before


def as_samples(frames, visible, complete=None, occluders=None):
    parts = [frames, visible, complete, occluders]
    return [Sample(*(None if part is None else part[0, time] for part in parts)) for time in range(frames.shape[1])]


@pytest.mark.parametrize("given", ["complete", "occluders"])
def test_stream_in_one_run_is_the_whole(given):
    frames, visible, complete, occluders, _ = passing()
    masks = (complete, None) if given == "complete" else (None, occluders)
    inpainter = WeightFreeInpainter(flow=Constant((4, 0)))
    whole = inpainter(frames, visible, *masks)
    streamed = list(inpainter.stream(as_samples(frames, visible, *masks), size=8, margin=2))
    assert len(streamed) == 8
    for time, done in enumerate(streamed):
        for name, part in vars(done).items():
            assert torch.equal(part, getattr(whole, name)[0, time]), name


def test_stream_in_short_runs_gives_every_frame_and_holds_few():
    frames, visible, complete, _, _ = passing(length=12, width=90)
    drawn = []

    def samples():
        for sample in as_samples(frames, visible, complete):
            drawn.append(sample)
            yield sample

    inpainter = WeightFreeInpainter(flow=Constant((4, 0)))
    whole = inpainter(frames, visible, complete)
    count = 0
    for time, done in enumerate(inpainter.stream(samples(), size=7, margin=3)):
        count += 1
        assert len(drawn) - time <= 7 + 1
        # Sources lie at most 2 frames away here, which is within the margin.
        torch.testing.assert_close(done.frames, whole.frames[0, time], atol=1e-5, rtol=0)
    assert count == 12


def test_stream_tells_the_backend_which_frames_it_asks_for():
    class Recording(Constant):
        asked = ()

        def flows(self, frames, start=0):
            self.asked += ((start, len(frames)),)
            return super().flows(frames, start)

    frames, visible, complete, _, _ = passing(length=6)
    backend = Recording((4, 0))
    list(WeightFreeInpainter(flow=backend).stream(as_samples(frames, visible, complete), size=4, margin=1))
    assert backend.asked == ((0, 2), (1, 2), (2, 2), (3, 2), (4, 2))


def test_hidden_part_needs_a_place():
    frames, visible, *_ = passing(length=2)
    inpainter = WeightFreeInpainter(flow=DISFlow())
    with pytest.raises(InpaintingError, match="give the complete masks, or the occluders' masks"):
        inpainter(frames, visible)
    with pytest.raises(InpaintingError, match="give the complete masks, or the occluders' masks"):
        list(inpainter.stream(as_samples(frames, visible)))


def test_masks_of_some_frames_alone():
    frames, visible, complete, _, _ = passing(length=3)
    samples = as_samples(frames, visible, complete)
    samples[1] = Sample(samples[1].frame, samples[1].visible)
    with pytest.raises(InpaintingError, match="some frames have the mask 'complete' and others do not"):
        list(WeightFreeInpainter(flow=DISFlow()).stream(samples))


def test_frames_of_two_sizes():
    samples = [Sample(torch.zeros(3, 16, width), torch.zeros(1, 16, width)) for width in (20, 24)]
    with pytest.raises(InpaintingError, match=r"frame 1 is \(16, 24\) px .* those before it are \(16, 20\) px"):
        list(WeightFreeInpainter(flow=DISFlow()).stream(samples))


def test_masks_of_another_size():
    with pytest.raises(InpaintingError, match="resize it to the frames' size"):
        WeightFreeInpainter(flow=DISFlow())(torch.zeros(1, 2, 3, 16, 16), torch.zeros(1, 2, 1, 8, 8))


def test_object_that_is_never_visible():
    frames = torch.rand(1, 3, 3, 16, 16)
    hole = torch.zeros(1, 3, 1, 16, 16)
    hole[..., 4:9, 4:9] = 1
    done = WeightFreeInpainter(flow=DISFlow())(frames, torch.zeros_like(hole), hole)
    assert torch.equal(done.frames, frames)
    assert torch.equal(done.left, hole)


def test_empty_masks_change_nothing():
    frames, masks = torch.rand(1, 3, 3, 16, 16), torch.zeros(1, 3, 1, 16, 16)
    for given in ({"complete": masks}, {"occluders": masks + 1}):
        done = WeightFreeInpainter(flow=DISFlow())(frames, masks, **given)
        assert torch.equal(done.frames, frames)
        assert not done.complete.any()


@pytest.mark.parametrize("size", [8, 17])
def test_one_frame_is_painted(size):
    frames, complete = torch.rand(1, 1, 3, size, size), torch.ones(1, 1, 1, size, size)
    visible = complete.clone()
    visible[..., 2:4, 2:5] = 0
    done = WeightFreeInpainter(flow=DISFlow())(frames, visible, complete)
    assert torch.equal(done.painted, complete - visible)
    streamed = list(WeightFreeInpainter(flow=DISFlow()).stream(as_samples(frames, visible, complete)))
    assert torch.equal(streamed[0].frames, done.frames[0, 0])
    assert list(WeightFreeInpainter(flow=DISFlow()).stream([])) == []


def test_painting_takes_the_objects_colours_alone():
    red, green, blue = torch.eye(3).reshape(3, 3, 1, 1) * 2 - 1
    frames = green.expand(3, 24, 24).clone()
    frames[:, 6:18, 6:18] = red
    frames[:, 6:18, 12:18] = blue
    known, hole = torch.zeros(2, 1, 1, 1, 24, 24)
    known[..., 6:18, 6:12] = 1
    hole[..., 6:18, 12:18] = 1
    filled, painted = telea_fill(frames[None, None], known, hole)
    assert torch.equal(painted, hole)
    assert torch.equal(filled[0, 0, :, 6:18, 6:18], red.expand(3, 12, 12))
    outside = hole[0, 0, 0] == 0
    assert torch.equal(filled[0, 0][:, outside], frames[:, outside])
