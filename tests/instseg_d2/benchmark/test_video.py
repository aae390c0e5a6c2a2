"""That video benchmarks do what they say; never how long it takes."""

import math

import pytest
import torch
from detectron2.structures import Instances
from torch import nn

from instseg_d2.benchmark import video
from instseg_d2.testing import tiny_mask_rcnn, tiny_tracking_rcnn

COUNTS = {"device": "cpu", "clock": "wall", "rounds": 1, "repeats": 1}


class Counter(nn.Module):
    """Remembers a tensor for each frame, as no model should."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def reset(self):
        self.kept = []

    def step(self, frame):
        self.kept.append(torch.zeros(2**18))
        found = Instances((8, 8))
        found.pred_ids = torch.tensor([0, len(self.kept)])
        return found


def test_the_picture_moves_the_same_way_each_time():
    one, other = video.MovingPicture(64), video.MovingPicture(64)
    frame = one.frame(3)
    assert frame["image"].shape == (3, 64, 85)
    assert (frame["height"], frame["width"]) == (64, 85)
    assert torch.equal(frame["image"], other.frame(3)["image"])
    assert not torch.equal(frame["image"], one.frame(4)["image"])
    assert one.frame(10_000)["image"].shape == (3, 64, 85)


def test_a_copy_goes_on_from_the_same_frame():
    player = video.Player("counter", Counter(), video.MovingPicture(32))
    player.play(5)
    twin = player.copied()
    player.play(9)
    twin.play(6)
    assert (player.number, twin.number) == (9, 6)
    assert (len(player.model.kept), len(twin.model.kept)) == (9, 6)
    assert (player.detections, player.tracks) == (18, 9)
    player.restart()
    assert (player.number, player.model.kept) == (0, [])


def test_memory_that_grows_is_seen(capsys):
    player = video.Player("counter", Counter(), video.MovingPicture(32))
    (row,) = video.late_and_early(player, early=3, late=13, **COUNTS)
    assert "from frame 3 to 13: tensors of the model +10.000 MiB" in capsys.readouterr().out
    assert (row["A"], row["B"]) == ("counter from frame 13", "counter from frame 3")
    assert row["ratio"] > 0
    with pytest.raises(ValueError, match="frames 5 and 5"):
        video.late_and_early(player, early=5, late=5, **COUNTS)


def test_tensors_of_an_object_are_counted_once():
    whole = torch.zeros(100)
    tree = {"a": [whole, whole[:10]], "b": (torch.zeros(5),)}
    assert video.tensor_bytes(tree) == 4 * 105
    assert video.tensor_bytes(nn.Linear(3, 2)) == 4 * 8


def test_where_the_process_cannot_be_asked(monkeypatch):
    def refuse(field):
        raise FileNotFoundError(field)

    monkeypatch.setattr(video, "resident_bytes", refuse)
    assert math.isnan(video._held(nn.Linear(2, 2), on_cuda=False)[1])


def test_models_of_images_are_refused():
    with pytest.raises(ValueError, match=r"GeneralizedRCNN has no step\(\).*`models`"):
        video.Player("x", tiny_mask_rcnn(), video.MovingPicture(32))


def test_both_sides_have_the_same_work(monkeypatch, capsys):
    nodes = {"baseline": "tracking_rcnn", "pcan": "pcan"}
    monkeypatch.setattr(video, "get_config", lambda name: type("Config", (), {"model": name}))
    monkeypatch.setattr(video, "instantiate", lambda name: tiny_tracking_rcnn(recipe=nodes[name]))
    made = video.players(["baseline", "pcan"], size=64, objects=5, device="cpu")
    assert made[1].model.instance_attention is not None
    weights = [one.model.roi_heads.box_predictor.cls_score.weight for one in made]
    assert torch.equal(*weights)
    (row,) = video.side_by_side(made, **{**COUNTS, "repeats": 2}, warmup=1)
    assert (row["A"], row["B"], row["what"]) == ("pcan", "baseline", "video, a frame of 85x64")
    found = [one.detections for one in made]
    assert found[0] == found[1] > 0
    # One run more asked for the memory.
    assert found[0] <= 4 * 5
    assert "detections a frame" in capsys.readouterr().out
