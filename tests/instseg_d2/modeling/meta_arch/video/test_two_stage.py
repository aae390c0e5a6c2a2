"""The tracking R-CNN and PCAN on it: training on pairs, videos one after the other, single frames, odd input."""

import functools

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

from instseg_d2.modeling.meta_arch.pcan.instance_attention import RELEASED
from instseg_d2.testing import (
    fake_instances,
    fake_pairs,
    fake_video,
    tiny_mask_rcnn,
    tiny_tracking_rcnn,
    tiny_tracking_rcnn_config,
    train_on_ranks,
)

DETECTION = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
TRACKING = DETECTION | {"loss_mask", "loss_track", "loss_track_aux"}
RECIPES = pytest.mark.parametrize("recipe", ["tracking_rcnn", "pcan"])


def losses_of(model, batch):
    with EventStorage():
        return model(batch)


def released_config():
    model = tiny_tracking_rcnn_config(recipe="pcan")
    model.instance_attention.update({**RELEASED, "foreground": 3, "background": 3})
    return model


@pytest.fixture(scope="module")
def trained():
    """A PCAN that finds the objects of `fake_video`, a little; its tracker takes whatever is there."""
    model = tiny_tracking_rcnn(recipe="pcan")
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    with EventStorage():
        for _ in range(12):
            optimizer.zero_grad()
            sum(model(fake_pairs()).values()).backward()
            optimizer.step()
    model.tracker.init_score = 0.1
    model.tracker.obj_score = 0.05
    model.tracker.match_score = 0.02
    return model.eval()


@RECIPES
def test_tiny_model_learns(recipe):
    model = tiny_tracking_rcnn(recipe=recipe)
    assert sum(parameter.numel() for parameter in model.parameters()) < 150_000
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    batch, totals = fake_pairs(), []
    for _ in range(5):
        losses = losses_of(model, batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        optimizer.step()
        totals.append(total.item())
    assert set(losses) == (TRACKING | {"loss_refine"} if recipe == "pcan" else TRACKING)
    assert totals[-1] < totals[0]


def test_refinement_teaches_features_but_not_the_first_masks():
    model = tiny_tracking_rcnn(recipe="pcan")
    torch.nn.init.normal_(model.frame_attention.attentions["p2"].output.weight, std=0.1)
    losses_of(model, fake_pairs())["loss_refine"].backward()
    parts = {
        "backbone": model.backbone,
        "memory": model.frame_attention.attentions["p2"].value,
        "refinement": model.instance_attention,
        "masks": model.roi_heads.mask_head,
        "embedding": model.track_head,
    }
    reached = {
        name for name, part in parts.items() if any(p.grad is not None and p.grad.any() for p in part.parameters())
    }
    assert reached == {"backbone", "memory", "refinement"}


def test_several_references():
    config = tiny_tracking_rcnn_config(recipe="pcan")
    config.num_references = 3
    torch.manual_seed(0)
    model = instantiate(config)
    batch = fake_pairs()
    batch[0]["references"] *= 2
    seen = []
    model.frame_attention.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[1])))
    losses = losses_of(model, batch)
    assert seen == [0, 1, 2, 3]
    assert all(value.isfinite() for value in losses.values())


def test_weights_of_mask_rcnn_load():
    theirs, ours = tiny_mask_rcnn(), tiny_tracking_rcnn(seed=1)
    found = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert {name.split(".")[0] for name in found.missing_keys} == {"track_head"}
    theirs.roi_heads.box_predictor.test_topk_per_image = ours.roi_heads.box_predictor.test_topk_per_image
    batch = fake_pairs()
    expected, output = theirs.eval()(batch), ours.eval().inference(batch)
    for a, b in zip(expected, output, strict=True):
        torch.testing.assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)


def test_boxes_alone():
    """Data of boxes: no mask head, no masks in the annotations."""
    config = tiny_tracking_rcnn_config()
    config.roi_heads.update(mask_in_features=None, mask_pooler=None, mask_head=None)
    model = instantiate(config)
    batch = fake_pairs()
    for frame in [*batch, *(item["references"][0] for item in batch)]:
        frame["instances"].remove("gt_masks")
    losses = losses_of(model, batch)
    assert set(losses) == TRACKING - {"loss_mask"}
    found = model.eval().step(fake_video()[0])
    assert found.has("pred_ids")
    assert not found.has("pred_masks")


def test_refinement_without_masks_is_refused():
    config = tiny_tracking_rcnn_config(recipe="pcan")
    config.roi_heads.update(mask_in_features=None, mask_pooler=None, mask_head=None)
    with pytest.raises(ValueError, match="instance_attention needs a mask head"):
        instantiate(config)


def empty(frame):
    nothing = fake_instances(*frame["image"].shape[1:], [])
    nothing.remove("gt_masks")
    nothing.gt_ids = torch.zeros(0, dtype=torch.int64)
    frame["instances"] = nothing


@pytest.mark.parametrize("where", ["references", "everywhere", "key frames", "other objects", "hidden masks"])
def test_batches_without_pairs_have_the_same_losses(where):
    model = tiny_tracking_rcnn(recipe="pcan")
    batch = fake_pairs()
    for item in batch:
        (reference,) = item["references"]
        if where in ("references", "everywhere"):
            empty(reference)
        if where in ("key frames", "everywhere"):
            empty(item)
        if where == "other objects":
            reference["instances"].gt_ids += 10
        if where == "hidden masks":
            item["instances"].gt_has_mask = torch.zeros(2, dtype=torch.bool)
    losses = losses_of(model, batch)
    assert set(losses) == TRACKING | {"loss_refine"}
    assert all(value.isfinite() for value in losses.values())
    # A key frame with objects is its own reference; without any there is nothing to redraw.
    assert (losses["loss_refine"] > 0) == (where in ("references", "other objects"))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.instance_attention.parameters())


@pytest.mark.slow  # two processes import torch, about 10 s
def test_two_processes_of_which_one_has_no_pairs(tmp_path):
    without = fake_pairs(images=1)
    for item in without:
        empty(item)
        empty(item["references"][0])
    build = functools.partial(tiny_tracking_rcnn, recipe="pcan")
    (first, losses), (second, others) = train_on_ranks(build, [fake_pairs(images=1), without], tmp_path)
    assert torch.equal(first, second)
    assert losses.keys() == others.keys()
    assert losses["loss_refine"] > 0
    assert others["loss_refine"] == 0


@pytest.mark.parametrize("config", [lambda: tiny_tracking_rcnn_config(recipe="pcan"), released_config])
def test_autocast(config):
    torch.manual_seed(0)
    model = instantiate(config())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, fake_pairs())
        sum(losses.values()).backward()
        found = model.eval()(fake_video(length=2))
    assert all(value.isfinite() for value in losses.values())
    assert found[1]["instances"].pred_masks.dtype == torch.bool


def outputs(model, frames):
    return {frame["image_id"]: output["instances"] for frame, output in zip(frames, model(frames), strict=True)}


def test_order_of_videos_does_not_matter_and_steps_are_frames(trained):
    first, second = fake_video(video_id=1), fake_video(video_id=2, height=96, width=64, seed=1)
    forth, back = outputs(trained, first + second), outputs(trained, second + first)
    assert forth.keys() == back.keys()
    for name, x in forth.items():
        for field, value in x.get_fields().items():
            other = back[name].get(field)
            assert torch.equal(getattr(value, "tensor", value), getattr(other, "tensor", other)), (name, field)
    trained.reset()
    for frame in first:
        assert torch.equal(trained.step(frame).pred_masks, forth[frame["image_id"]].pred_masks)
    # The test would say nothing if there were no objects, or if they were not met again.
    ids = [set(forth[frame["image_id"]].pred_ids.tolist()) - {0} for frame in first]
    assert ids[0]
    assert min(ids[0]) == 1
    assert ids[0] & ids[1]


def test_the_past_changes_masks_and_features(trained):
    video = fake_video(length=2)
    both = outputs(trained, video)[video[1]["image_id"]]
    alone = outputs(trained, [{**video[1], "frame_index": 0}])[video[1]["image_id"]]
    assert not torch.allclose(both.pred_boxes.tensor[:5], alone.pred_boxes.tensor[:5])
    trained.reset()
    trained.step(video[0])
    states = trained._states
    assert states
    ids = set(trained.step(video[1]).pred_ids.tolist())
    for number in ids & set(states) - {0}:
        assert not torch.equal(trained._states[number].foreground, states[number].foreground)


def test_memory_does_not_grow(trained):
    frame = fake_video()[0]
    trained.reset()
    lifetime, trained.tracker.memo_tracklet_frames = trained.tracker.memo_tracklet_frames, 2
    known = set()
    for _ in range(8):
        trained.step(frame)
        assert set(trained._states) == trained.tracker.alive_ids
        known |= set(trained._states)
    trained.tracker.memo_tracklet_frames = lifetime
    # More objects have been seen than two frames can have.
    assert 0 < len(trained._states) <= 2 * trained.roi_heads.box_predictor.test_topk_per_image < len(known)
    assert len(trained._memory) == 3
    trained.reset()


def test_frames_of_changing_size_and_without_detections(trained):
    frames = [*fake_video(length=1), fake_video(length=2, height=50, width=70)[1], fake_video(length=3)[2]]
    found = [trained.step(frame) for frame in frames]
    assert [x.image_size for x in found] == [(64, 96), (50, 70), (64, 96)]
    threshold = trained.roi_heads.box_predictor.test_score_thresh
    trained.roi_heads.box_predictor.test_score_thresh = 1.1
    nothing = trained.step(frames[0])
    trained.roi_heads.box_predictor.test_score_thresh = threshold
    assert nothing.pred_masks.shape == (0, 64, 96)
    assert nothing.pred_ids.shape == (0,)
    assert len(trained.step(frames[0])) > 0


def test_given_boxes_are_segmented(trained):
    frames = fake_video(length=2)
    given = [fake_instances(64, 96, []) for _ in frames]
    for x, boxes in zip(given, ([[8.0, 8, 40, 40], [30, 20, 80, 60]], []), strict=True):
        x.remove("gt_boxes"), x.remove("gt_classes"), x.remove("gt_masks")
        x.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        x.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    found = trained.inference(frames, detected_instances=given)
    assert [len(x["instances"]) for x in found] == [2, 0]
    assert torch.equal(found[0]["instances"].pred_boxes.tensor[0], torch.tensor([8.0, 8, 40, 40]))
    raw = trained.inference(frames, detected_instances=given, do_postprocess=False)
    assert raw[0].pred_masks.shape == (2, 1, 28, 28)
