"""How a frame goes through an online video model, and what is remembered, with stand-ins for its parts."""

from collections import deque

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from instseg_d2.modeling.meta_arch.pcan.instance_attention import InstanceAttention
from instseg_d2.modeling.meta_arch.video.base import OnlineVideoModel
from instseg_d2.modeling.tracking.base import Tracker
from instseg_d2.testing import fake_video

CHANNELS = 3


class FewTracks(Tracker):
    """The first two detections are objects, the third is none, all others are dropped; only the last frame's live."""

    def reset(self):
        self.frames = 0
        self.resets = getattr(self, "resets", -1) + 1
        self._alive = set()

    @property
    def alive_ids(self):
        return self._alive

    def associate(self, detections):
        assert detections.embeddings.shape == (len(detections), 1)
        self.frames += 1
        ids = np.array([self.frames, 10, 0, -1])[: len(detections)]
        self._alive = {number for number in ids.tolist() if number > 0}
        return ids


class CountedFrames(nn.Module):
    """Notes how much memory it is given; an entry is the number of the frame."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def new_memory(self):
        return deque(maxlen=2)

    def forward(self, features, memory):
        self.seen.append(list(memory))
        return {name: level + len(memory) for name, level in features.items()}, float(features["p2"].mean())


class Model(OnlineVideoModel):
    """Features are the image; detections are four boxes, without the last ones where the image is dark."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.weight = nn.Parameter(torch.zeros(1))

    @property
    def device(self):
        return self.weight.device

    def preprocess_image(self, batched_inputs):
        return ImageList.from_tensors([item["image"].float() / 255 for item in batched_inputs])

    def extract(self, images):
        return {"p2": images.tensor}

    def detect(self, images, features):
        found = []
        for size, level in zip(images.image_sizes, features["p2"], strict=True):
            height, width = size
            count = 4 if level.mean() > 0.1 else 0
            boxes = torch.tensor([[i, i, width / 2 + i, height / 2 + i] for i in range(4)])[:count]
            scores = torch.tensor([0.9, 0.8, 0.7, 0.6])[:count]
            found.append(
                Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=torch.zeros(count).long())
            )
        return found

    def segment(self, features, instances):
        for x in instances:
            x.pred_masks = torch.full((len(x), 1, 4, 4), 0.9)
        return instances

    def embed(self, features, boxes):
        return torch.zeros(sum(len(x) for x in boxes), 1)

    def pool(self, features, boxes):
        count = sum(len(x) for x in boxes)
        return features["p2"].mean(dim=(2, 3))[:, :, None, None].expand(-1, -1, 2, 2).repeat(count, 1, 1, 1)


def build(**kwargs):
    return Model(tracker=FewTracks(), **kwargs).eval()


def refiner(**kwargs):
    torch.manual_seed(0)
    return InstanceAttention(channels=CHANNELS, foreground=2, background=2, conv_dim=4, num_convs=1, **kwargs)


def test_a_step_gives_objects_and_detections_that_are_none():
    frame = {**fake_video()[0], "height": 128, "width": 48}
    found = build().step(frame)
    assert found.image_size == (128, 48)
    assert found.pred_ids.tolist() == [1, 10, 0]
    assert found.pred_ids.dtype == torch.int64
    torch.testing.assert_close(found.pred_boxes.tensor[1], torch.tensor([0.5, 2.0, 24.5, 66.0]))
    assert found.pred_masks.shape == (3, 128, 48)
    assert found.pred_masks.dtype == torch.bool
    assert found.pred_masks[0, 20, 10]
    assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks", "pred_ids"}


def test_a_step_asks_for_eval_mode_but_not_for_a_reset():
    model = build()
    assert model.step(fake_video()[0]).pred_ids.tolist() == [1, 10, 0]
    with pytest.raises(RuntimeError, match=r"model\.eval"):
        model.train().step(fake_video()[0])


def test_the_model_forgets_where_another_video_begins():
    model = build(frame_attention=CountedFrames())
    resets = model.tracker.resets
    first, second = fake_video(video_id=1), fake_video(video_id=2)
    # The second video begins late, and is followed by another with its id.
    outputs = model([*first, *second[1:], *second])
    assert [x["instances"].pred_ids[0].item() for x in outputs] == [1, 2, 3, 1, 2, 1, 2, 3]
    assert model.tracker.resets - resets == 3
    assert [len(memory) for memory in model.frame_attention.seen] == [0, 1, 2, 0, 1, 0, 1, 2]


def test_frames_without_a_video_are_videos():
    frame = {"image": fake_video()[0]["image"]}
    outputs = build()([frame, frame])
    assert [x["instances"].pred_ids.tolist() for x in outputs] == [[1, 10, 0]] * 2
    assert outputs[0]["instances"].image_size == (64, 96)


def test_frames_of_any_size_and_without_detections():
    model = build(frame_attention=CountedFrames(), instance_attention=refiner())
    first = fake_video(length=2)
    dark = {**first[0], "image": torch.zeros(3, 40, 70, dtype=torch.uint8), "frame_index": 1}
    del dark["height"], dark["width"]
    large = fake_video(length=3, height=100, width=50)[2]
    found = [x["instances"] for x in model([first[0], dark, large])]
    assert [len(x) for x in found] == [3, 3, 3]  # what is remembered lights the second frame
    model.frame_attention = None
    model.reset()
    found = [model.step(frame) for frame in (first[0], dark, large)]
    assert [len(x) for x in found] == [3, 0, 3]
    assert [x.image_size for x in found] == [(64, 96), (40, 70), (100, 50)]
    assert found[1].pred_masks.shape == (0, 40, 70)
    assert found[1].pred_ids.dtype == torch.int64


def test_memory_of_frames_is_handed_over_and_bounded():
    model = build(frame_attention=CountedFrames())
    video = fake_video(length=5)
    for frame in video:
        model.step(frame)
    brightness = [float(frame["image"].float().mean() / 255) for frame in video]
    for index, memory in enumerate(model.frame_attention.seen):
        assert memory == pytest.approx(brightness[max(index - 2, 0) : index])


def test_states_belong_to_objects_and_go_with_them():
    model = build(instance_attention=refiner())
    video = fake_video()
    model.step(video[0])
    first = dict(model._states)
    assert set(first) == {1, 10}
    model.step(video[1])
    # Object 1 is not alive any more; object 10 was seen again.
    assert set(model._states) == {2, 10}
    assert not torch.equal(model._states[10].foreground, first[10].foreground)
    torch.testing.assert_close(
        model._states[10].foreground,
        model.instance_attention.refine(
            model.pool(model.extract(model.preprocess_image([video[1]])), [Boxes(torch.zeros(1, 4))]),
            torch.full((1, 1, 4, 4), 0.9).logit(),
            [first[10]],
        )[1][0].foreground,
    )
    dark = {"image": torch.zeros_like(video[0]["image"])}
    model.step(dark)
    assert model._states == {}


def test_masks_are_redrawn_and_attention_is_kept_for_pictures():
    frame = fake_video()[0]
    plain = build().step(frame)
    model = build(instance_attention=refiner(keep_aux=True))
    nn.init.constant_(model.instance_attention.segmentation.predictor.bias, -5.0)
    redrawn = model.step(frame)
    assert plain.pred_masks.any()
    assert not redrawn.pred_masks.any()
    assert redrawn.pred_attention.shape == (3, 4, 2, 2)
    assert not plain.has("pred_attention")


def test_nothing_of_a_video_is_in_a_checkpoint():
    model = build(frame_attention=CountedFrames(), instance_attention=refiner())
    before = {name: x.clone() for name, x in model.state_dict().items()}
    for frame in fake_video():
        model.step(frame)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], x) for name, x in before.items())
    model.reset()
    assert model._states == {}
    assert len(model._memory) == 0


def test_inference_remembers_nothing():
    model = build(frame_attention=CountedFrames(), instance_attention=refiner())
    frames = fake_video(length=2)
    model.step(frames[0])
    states, memory = dict(model._states), list(model._memory)
    found = model.inference(frames)
    assert model._states == states
    assert list(model._memory) == memory
    assert [len(x["instances"]) for x in found] == [4, 4]
    assert not found[0]["instances"].has("pred_ids")
    given = [x["instances"] for x in found]
    raw = model.inference(frames, detected_instances=given, do_postprocess=False)
    assert raw[0].pred_masks.shape == (4, 1, 4, 4)


def test_references_see_those_before_them():
    model = build(frame_attention=CountedFrames())
    levels = [{"p2": torch.full((1, 3, 2, 2), value)} for value in (0.1, 0.2, 0.3)]
    key, references = model.attend_references(levels[2], levels[:2])
    assert model.frame_attention.seen == [[], pytest.approx([0.1]), pytest.approx([0.1, 0.2])]
    assert references[1]["p2"].mean().item() == pytest.approx(1.2)
    assert key["p2"].mean().item() == pytest.approx(2.3)
    assert build().attend_references(levels[2], levels[:2]) == (levels[2], levels[:2])
