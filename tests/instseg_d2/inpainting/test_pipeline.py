import cv2
import numpy as np
import pytest
import torch

from instseg_d2.inpainting.baseline import WeightFreeInpainter
from instseg_d2.inpainting.clips import as_images, from_bytes
from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.flow.backends import DISFlow, FlowBackend, PairwiseFlow
from instseg_d2.inpainting.flow.completion import FlowCompletion, ResidualUNet
from instseg_d2.inpainting.generator.model import OcclusionAwareGenerator
from instseg_d2.inpainting.generator.shift import TemporalShift
from instseg_d2.inpainting.pipeline import BASELINE, ObjectFrame, VideoObjectInpainter
from instseg_d2.inpainting.shape.model import ShapeCompletion
from instseg_d2.inpainting.shape.parts import ClassMaskFusion, FrameEncoder, ShapeDecoder
from instseg_d2.inpainting.shape.transformer import SpaceTimeTransformer

STEP = 3


class Constant(PairwiseFlow):
    """The box's motion, everywhere."""

    name = "constant"

    def __init__(self):
        self.pairs = 0

    def flows(self, frames, start=0):
        self.pairs += len(frames) - 1
        flow = torch.tensor([STEP, 0.0]).view(1, 2, 1, 1).expand(len(frames) - 1, 2, *frames.shape[-2:])
        return flow, -flow

    def estimate(self, first, second):
        raise NotImplementedError


def passing(length=8, height=72, width=112, given=("complete",), seed=0):
    """A textured box moves behind a bar, `STEP` px a frame: frames, and the images without the bar."""
    rng = np.random.default_rng(seed)
    # Smooth enough for flow to be followed.
    texture = cv2.resize(rng.integers(0, 256, (7, 8, 3), dtype=np.uint8), (30, 26), interpolation=cv2.INTER_CUBIC)
    ground = cv2.resize(rng.integers(0, 256, (9, 14, 3), dtype=np.uint8), (width, height))
    frames, clean = [], []
    bar = np.zeros((height, width), dtype=bool)
    bar[:, 44:54] = True
    for time in range(length):
        image, complete = ground.copy(), np.zeros((height, width), dtype=bool)
        box = np.s_[20:46, 6 + STEP * time : 36 + STEP * time]
        image[box], complete[box] = texture, True
        clean.append(image)
        masks = {"complete": complete, "occluders": bar}
        observed = np.where(bar[..., None], np.uint8(90), image)
        frames.append(ObjectFrame(observed, complete & ~bar, **{name: masks[name] for name in given}))
    return frames, clean


def inpainter(**options):
    return VideoObjectInpainter(**{"flow": Constant(), **options})


def hole_of(done):
    return done.complete & ~done.visible


def networks(seed=0):
    torch.manual_seed(seed)
    shape = ShapeCompletion(
        encoder=FrameEncoder(in_channels=4, width=8),
        transformer=SpaceTimeTransformer(channels=32, num_layers=1, grids=(1, 2)),
        decoder=ShapeDecoder(width=8),
        fusion=ClassMaskFusion(in_channels=8, num_classes=3, embedding_dim=8, class_channels=4, hidden=(8, 8)),
        threshold=0.4,
    )
    network = ResidualUNet(widths=(8, 8, 16))
    torch.nn.init.normal_(network.last.weight, std=0.1)
    generator = OcclusionAwareGenerator(shift=TemporalShift(), width=8, mask_channels=4)
    return {"shape": shape, "flow_completion": FlowCompletion(network=network), "generator": generator}


@pytest.mark.parametrize("given", ["complete", "occluders"])
def test_box_behind_a_bar(given):
    frames, clean = passing(given=(given,))
    done = list(inpainter().process(frames))
    assert [one.index for one in done] == list(range(8))
    filled = 0
    for one, frame, truth in zip(done, frames, clean, strict=True):
        hole = hole_of(one)
        assert (one.image[~hole] == frame.image[~hole]).all()
        assert one.observed is frame.image
        regions = [one.from_past | one.from_future, one.painted, one.left]
        assert (np.sum(regions, axis=0) == hole).all()
        assert (one.image[regions[0]] == truth[regions[0]]).all()
        filled += np.count_nonzero(regions[0])
    assert filled > 0.9 * sum(np.count_nonzero(hole_of(one)) for one in done) > 0
    if given == "occluders":
        full = [one.complete for one in passing()[0]]
        assert all((one.complete <= mask).all() for one, mask in zip(done, full, strict=True))


def test_it_is_the_weight_free_inpainter_on_the_whole_frame():
    frames, _ = passing()
    done = list(inpainter(flow=DISFlow(), expand=10.0).process(frames))
    images = from_bytes(torch.from_numpy(np.stack([one.image[..., ::-1] for one in frames])).permute(0, 3, 1, 2))
    masks = [
        torch.from_numpy(np.stack([getattr(one, name) for one in frames]))[None, :, None].float()
        for name in ("visible", "complete")
    ]
    whole = WeightFreeInpainter(flow=DISFlow())(images[None], *masks)
    assert (np.stack([one.image for one in done]) == as_images(whole.frames[0])).all()
    for name in ("from_past", "from_future", "painted", "left"):
        expected = getattr(whole, name)[0, :, 0].numpy() > 0
        assert (np.stack([getattr(one, name) for one in done]) == expected).all(), name


def test_long_video_in_runs_equals_one_run_in_their_middle():
    frames, _ = passing(length=18)
    whole, cut = (
        list(inpainter(flow=DISFlow(), expand=10.0, size=size, margin=margin).process(frames))
        for size, margin in ((18, 1), (12, 4))
    )
    assert len(cut) == len(whole) == 18
    holes = [hole_of(one) for one in whole]
    pairs = zip(whole, cut, holes, strict=True)
    differences = [np.abs(one.image.astype(int) - other.image)[hole] for one, other, hole in pairs]
    # Runs are 0-11, 4-15 and 8-17: the middle of the second.
    for time in (9, 10):
        assert holes[time].sum() > 200
        assert differences[time].mean() < 2


def test_few_frames_are_held():
    drawn = []

    def frames():
        for frame in passing(length=24)[0]:
            drawn.append(frame)
            yield frame

    for done in inpainter(size=9, margin=3).process(frames()):
        assert len(drawn) - done.index <= 9 + 1


@pytest.mark.parametrize("flow", [Constant, DISFlow])
def test_frames_do_not_depend_on_runs_that_are_passed_over(flow):
    frames, _ = passing(length=20)
    options = {"size": 8, "margin": 2}
    whole = list(inpainter(flow=flow(), **options).process(frames))
    backend = flow()
    rest = list(inpainter(flow=backend, **options).process(frames, lambda index: index < 10))
    # Frames 0 to 5 come from the first run, 6 to 9 from the second, 10 to 13 from the third, the rest from the last.
    assert [one.index for one in rest] == list(range(10, 20))
    for one in rest:
        assert (one.image == whole[one.index].image).all()
    if flow is Constant:
        assert backend.pairs == 7 + 7
    half_done = [one.index for one in inpainter(**options).process(frames, lambda index: index < 8)]
    assert half_done == list(range(6, 20))
    assert list(inpainter(**options).process(frames, lambda index: True)) == []


@pytest.mark.parametrize("given", [("complete",), ("occluders",), ()])
def test_networks_do_every_stage(given):
    frames, _ = passing(given=given)
    for use_flow in (True, False):
        done = list(inpainter(**networks(), category=1, use_flow=use_flow).process(frames))
        hidden = 0
        for one, frame in zip(done, frames, strict=True):
            hole = hole_of(one)
            hidden += np.count_nonzero(hole)
            assert (one.image[~hole] == frame.image[~hole]).all()
            assert (one.complete >= frame.visible).all()
            assert not one.left.any()
            if given == ("occluders",):
                assert (hole <= frame.occluders).all()
            if not use_flow:
                assert (one.painted == hole).all()
        assert hidden > 0


def test_networks_run_under_autocast_and_see_pairs_in_parts(monkeypatch):
    frames, _ = passing(length=12)
    seen = []
    parts = networks()
    monkeypatch.setattr(
        parts["flow_completion"].network,
        "forward",
        lambda maps, plain=parts["flow_completion"].network.forward: seen.append(maps) or plain(maps),
    )
    done = list(inpainter(**parts, amp_dtype=torch.bfloat16).process(frames))
    assert len(done) == 12
    assert [len(maps) for maps in seen] == [8, 8, 3, 3]


def test_large_surroundings_are_worked_on_at_a_smaller_size():
    original, _ = passing(length=6)
    frames = [
        ObjectFrame(*(part.repeat(3, 0).repeat(3, 1) for part in (one.image, one.visible, one.complete)))
        for one in original
    ]
    # A working pixel for 9, so that the flow of `STEP` px is right.
    done = list(inpainter(working_area=72 * 112, expand=10.0).process(frames))
    small = list(inpainter(expand=10.0).process(original))
    for one, frame, expected in zip(done, frames, small, strict=True):
        hole = hole_of(one)
        assert (one.image[~hole] == frame.image[~hole]).all()
        assert (one.painted == expected.painted.repeat(3, 0).repeat(3, 1)).all()
        # At the middle of each working pixel the colours are its own.
        middle = one.image[1::3, 1::3].astype(int)
        assert np.abs(middle - expected.image).max() <= 1


def test_flow_of_files_is_of_whole_frames():
    class OfWholeFrames(FlowBackend):
        name = "files"
        asked = []

        def flows(self, frames, start=0):
            assert frames.shape == (2, 3, 72, 112)
            self.asked.append(start)
            flow = torch.tensor([STEP, 0.0]).view(1, 2, 1, 1).expand(1, 2, 72, 112)
            return flow, -flow

    frames, _ = passing(length=12)
    backend = OfWholeFrames()
    options = {"size": 8, "margin": 2}
    done = list(inpainter(flow=backend, **options).process(frames))
    expected = list(inpainter(**options).process(frames))
    assert backend.asked == [*range(7), *range(4, 11)]
    for one, other in zip(done, expected, strict=True):
        assert (one.image == other.image).all()


def test_flows_are_kept_when_asked_for():
    frames, _ = passing(length=6)
    done = list(inpainter(keep_flows=True, expand=0.0).process(frames))
    assert not done[5].flows
    assert set(done[0].flows) == {"forward", "backward", "completed_forward", "completed_backward"}
    flow = done[0].flows["completed_forward"]
    assert flow.shape == (2, 72, 112)
    assert flow[:, 30, 20].tolist() == [STEP, 0]
    assert flow[:, 0, 111].tolist() == [0, 0]
    assert not list(inpainter().process(frames))[0].flows
    # Files of a whole video have no gaps where nothing is hidden, or no object is there.
    nothing = np.zeros_like(frames[0].visible)
    for masks in (frames[0].visible, frames[0].visible), (nothing, nothing):
        (first, _) = inpainter(keep_flows=True).process([ObjectFrame(frames[0].image, *masks)] * 2)
        assert set(first.flows) == {"forward", "backward"}
        assert first.flows["forward"].shape == (2, 72, 112)


def test_one_frame_is_painted():
    frames, _ = passing(length=20)
    (done,) = inpainter(flow=DISFlow()).process(frames[5:6])
    assert done.painted.any()
    assert (done.painted == hole_of(done)).all()
    (done,) = inpainter(flow=DISFlow()).process(passing(given=("occluders",))[0][5:6])
    assert not hole_of(done).any()
    assert list(inpainter().process([])) == []


def test_object_that_is_not_seen():
    frames, _ = passing(length=3)
    nothing = np.zeros_like(frames[0].visible)
    unseen = [ObjectFrame(one.image, nothing, one.complete) for one in frames]
    for one, frame in zip(inpainter(flow=DISFlow()).process(unseen), unseen, strict=True):
        assert (one.left == frame.complete).all()
        assert (one.image == frame.image).all()
        assert not one.object_alone()[..., 3].any()
    for parts in ({"complete": nothing}, {"occluders": ~nothing}, {}):
        (one,) = inpainter(flow=DISFlow()).process([ObjectFrame(frames[0].image, nothing, **parts)])
        assert not one.complete.any()
        assert one.counts() == dict.fromkeys(("visible", "hidden", "propagated", "made_up", "left"), 0)


def test_frames_without_a_mask_are_filled_from_their_neighbours():
    frames, clean = passing(length=6)
    frames[3] = ObjectFrame(frames[3].image, np.zeros_like(frames[3].visible), frames[3].complete)
    done = list(inpainter().process(frames))
    moved = done[3].from_past | done[3].from_future
    assert moved.sum() > 0.8 * frames[3].complete.sum()
    assert (done[3].image[moved] == clean[3][moved]).all()


def test_object_alone_is_transparent_elsewhere():
    frames, _ = passing()
    done = list(inpainter().process(frames))[5]
    alone = done.object_alone()
    assert ((alone[..., 3] == 255) == done.complete).all()
    assert (alone[..., :3][done.complete] == done.image[done.complete]).all()
    assert not alone[~done.complete].any()
    counts = done.counts()
    assert counts["hidden"] == counts["propagated"] + counts["made_up"] > 0


def test_stages_without_weights_are_called_a_baseline():
    plain = inpainter().stages(complete_given=False)
    assert all(BASELINE in text for text in plain.values())
    trained = inpainter(**networks()).stages(complete_given=False)
    assert not any(BASELINE in text for text in trained.values())
    assert inpainter().stages(complete_given=True)["shape"] == "given masks"
    assert inpainter(use_flow=False).stages(complete_given=True)["flow"] == "not used"


def test_hidden_part_needs_a_place():
    with pytest.raises(InpaintingError, match="give the complete masks, the occluders' masks, or a network"):
        list(inpainter().process(passing(given=())[0]))


def test_what_does_not_fit_is_named():
    frames, _ = passing(length=3)
    some = [*frames[:2], ObjectFrame(frames[2].image, frames[2].visible)]
    with pytest.raises(InpaintingError, match="'complete' and others, such as frame 2, do not"):
        list(inpainter().process(some))
    frames[1] = ObjectFrame(frames[1].image, frames[1].visible[:-2], frames[1].complete)
    with pytest.raises(InpaintingError, match="frame 1: 'visible' is 112 x 70 px, the first frame 112 x 72 px"):
        list(inpainter().process(frames))
    with pytest.raises(InpaintingError, match="size=8 and margin=4"):
        inpainter(size=8, margin=4)
