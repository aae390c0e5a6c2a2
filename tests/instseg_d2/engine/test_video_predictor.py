import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.benchmark.models import make_it_detect
from instseg_d2.checkpoint import Checkpointer
from instseg_d2.engine import Predictor, VideoPredictor
from instseg_d2.engine.overrides import SettingError
from instseg_d2.engine.video_predictor import follow
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import tiny_mask_rcnn, tiny_tracking_rcnn

RECIPE = "PCAN/pcan_narrow_fpn_occvideo_quick"


@pytest.fixture(scope="module")
def frames():
    """A picture that drifts, (64, 96, 3) each."""
    picture = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.ascontiguousarray(picture[shift : shift + 64, shift : shift + 96]) for shift in (0, 2, 4)]


def as_input(frame):
    return {"image": torch.from_numpy(frame.transpose(2, 0, 1).copy()), "height": 64, "width": 96}


@pytest.fixture(scope="module")
def model(frames):
    model = tiny_tracking_rcnn(recipe="pcan")
    make_it_detect(model, [as_input(frames[0])])
    return model


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for name in ("scores", "pred_classes", "pred_ids", "pred_masks"):
        assert torch.equal(found.get(name), expected.get(name))


def test_steps_equal_those_of_the_model(model, frames):
    model.eval().reset()
    expected = [model.step(as_input(frame)) for frame in frames]
    predictor = VideoPredictor(Predictor(model))
    for frame, one in zip(frames, expected, strict=True):
        found = predictor.step(frame)
        assert_same(found, one)
        assert found.pred_masks.device.type == "cpu"
    assert {1} <= set(torch.cat([one.pred_ids for one in expected]).tolist())


def test_reset_forgets_and_a_frame_depends_on_those_before(model, frames):
    predictor = VideoPredictor(Predictor(model))
    first, second = (predictor.step(frame) for frame in frames[:2])
    predictor.reset()
    assert_same(predictor.step(frames[0]), first)
    assert_same(predictor.step(frames[1]), second)
    predictor.reset()
    alone = predictor.step(frames[1])
    assert len(alone) != len(second) or not torch.equal(alone.pred_ids, second.pred_ids)


def test_single_images_have_no_past(model, frames):
    predictor = Predictor(model)
    assert_same(predictor(frames[1])["instances"], predictor.predict_batch(frames[:2])[1]["instances"])


def test_results_are_in_pixels_of_frames_of_any_size(model, frames):
    predictor = VideoPredictor(Predictor(model, [T.ResizeShortestEdge(96, 256)]))
    for frame in (frames[0], frames[1][:48, :80]):
        assert predictor.step(frame).image_size == frame.shape[:2]


def test_models_of_single_images_are_refused():
    with pytest.raises(SettingError, match=r"GeneralizedRCNN has no step\(\).*image mode.*PCAN"):
        VideoPredictor(Predictor(tiny_mask_rcnn()))


def test_other_inputs_are_named(model):
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 array in BGR"):
        VideoPredictor(Predictor(model)).step(np.zeros((4, 4), np.uint8))


@pytest.mark.slow
def test_from_config(tmp_path, frames):
    Checkpointer(instantiate(get_config(RECIPE).model), str(tmp_path)).write("weights")
    predictor = VideoPredictor.from_config(RECIPE, weights=str(tmp_path / "weights.pth"), device="cpu")
    assert predictor.metadata.thing_classes[0] == "disc"
    assert predictor.step(frames[0]).has("pred_ids")


class Recorder:
    def __init__(self):
        self.ids, self.closed = [], 0

    def add(self, frame, instances):
        self.ids.append(instances.pred_ids.tolist())

    def close(self):
        self.closed += 1


def test_following_hands_on_tracks_that_are_sure_enough(color_tracker, color_frames):
    first, second = Recorder(), Recorder()
    predictor = VideoPredictor(Predictor(color_tracker))
    counts = list(follow(predictor, color_frames, [first, second], score_threshold=0.5))
    assert first.ids == second.ids == [[1], [1, 2], [2], [1], []]
    assert counts == [1, 2, 1, 1, 0]
    assert (first.closed, second.closed) == (1, 1)
    again = Recorder()
    list(follow(predictor, color_frames[:2], [again]))
    assert again.ids == [[1], [1, 2, 3]]


def test_outputs_are_finished_when_a_video_breaks_off(color_tracker, color_frames):
    def broken():
        yield color_frames[0]
        raise OSError("gone")

    output = Recorder()
    with pytest.raises(OSError, match="gone"):
        list(follow(VideoPredictor(Predictor(color_tracker)), broken(), [output]))
    assert (output.ids, output.closed) == ([[1]], 1)
    stopped = follow(VideoPredictor(Predictor(color_tracker)), color_frames, [output])
    next(stopped)
    stopped.close()
    assert output.closed == 2
