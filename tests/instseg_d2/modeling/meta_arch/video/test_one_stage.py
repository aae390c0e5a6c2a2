"""The tracking FCOS and PCAN on it: training on pairs, videos one after the other, odd input."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from instseg_d2.modeling.tracking.center_embedding import CenterEmbeddingTracker
from instseg_d2.testing import (
    fake_instances,
    fake_pairs,
    fake_video,
    tiny_fcos_mask,
    tiny_tracking_fcos,
    tiny_tracking_fcos_config,
    train_on_ranks,
)

DETECTION = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
TRACKING = DETECTION | {"loss_mask", "loss_track"}
RECIPES = pytest.mark.parametrize("recipe", ["tracking_fcos", "pcan_fcos"])


def losses_of(model, batch):
    with EventStorage():
        return model(batch)


def with_boxes(model):
    """Let the untrained detector predict boxes of some size, from which embeddings can be learned."""
    torch.nn.init.constant_(model.detector.head.bbox_pred.bias, 2.0)
    return model


def build(recipe="pcan_fcos"):
    return with_boxes(tiny_tracking_fcos(recipe=recipe))


def empty(frame):
    nothing = fake_instances(*frame["image"].shape[1:], [])
    nothing.remove("gt_masks")
    frame["instances"] = nothing


@RECIPES
def test_tiny_model_learns(recipe):
    model, batch, totals = build(recipe), fake_pairs(), []
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(6):
        losses = losses_of(model, batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        optimizer.step()
        totals.append(total.item())
    assert set(losses) == (TRACKING | {"loss_refine"} if recipe == "pcan_fcos" else TRACKING)
    assert losses["loss_track"] > 0
    assert totals[-1] < totals[0]


def test_embeddings_are_learned_at_positive_locations_from_predicted_boxes():
    model, batch = build("tracking_fcos"), fake_pairs(images=1)
    seen = {}
    model.track_head.losses = lambda key_map, keys, ref_map, references: (
        seen.update(key_map=key_map, keys=keys, ref_map=ref_map, references=references) or {"loss_track": key_map.sum()}
    )
    batch[0]["instances"].gt_ids = torch.tensor([30, 40])
    losses_of(model, batch)
    (keys,), (reference,) = seen["keys"], seen["references"]
    locations = keys.locations.float()
    assert set(keys.gt_ids.tolist()) == {30, 40}
    for number, box in zip((30, 40), batch[0]["instances"].gt_boxes.tensor, strict=True):
        points = locations[keys.gt_ids == number]
        assert ((points > box[:2]) & (points < box[2:])).all()
    # Deltas of about 2 strides in each direction.
    assert torch.allclose(keys.pred_boxes.get_centers(), locations, atol=3)
    assert reference.gt_ids.tolist() == [1, 2]
    assert reference.gt_boxes.tensor.tolist() == [[12, 10, 44, 42], [26, 16, 76, 58]]
    assert seen["key_map"].shape == seen["ref_map"].shape == (1, 16, 16, 24)
    assert not torch.equal(seen["key_map"], seen["ref_map"])


def test_masks_are_learned_from_predicted_and_true_boxes():
    model, batch = build("tracking_fcos"), fake_pairs(images=1)
    model.detector.test_score_thresh = 1.0
    # Locations of the finest level predict about 8 px to each side; an object of that size is met.
    batch[0]["instances"] = fake_instances(64, 96, [[40, 24, 56, 40]])
    batch[0]["instances"].gt_ids = torch.tensor([1])
    seen = []
    model.mask_head.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[1]))
    losses_of(model, batch)
    assert [40, 24, 56, 40] in seen[0].proposal_boxes.tensor.tolist()
    assert len(seen[0]) > 1
    assert len(seen[0]) <= model.regions_per_image
    assert seen[0].gt_ids.unique().tolist() == [1]


def test_weights_of_fcos_with_masks_load():
    theirs, ours = tiny_fcos_mask(), tiny_tracking_fcos(seed=1)
    found = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert {name.split(".")[0] for name in found.missing_keys} == {"track_head"}
    for name in ("test_thresh_on", "test_score_thresh", "test_topk_candidates", "test_nms_thresh"):
        setattr(theirs.detector, name, getattr(ours.detector, name))
    theirs.detector.max_detections_per_image = ours.detector.max_detections_per_image
    theirs.detector.test_score_thresh = ours.detector.test_score_thresh = 0.0
    with_boxes(theirs), with_boxes(ours)
    batch = fake_pairs()
    with torch.no_grad():
        expected, output = theirs.eval()(batch), ours.eval().inference(batch)
    for a, b in zip(expected, output, strict=True):
        assert len(a["instances"]) == 10
        torch.testing.assert_close(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)


@pytest.mark.parametrize("where", ["references", "everywhere", "key frames", "other objects", "hidden masks"])
def test_batches_without_pairs_have_the_same_losses(where):
    model, batch = build(), fake_pairs()
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
    # Where all objects are new, that is learned.
    assert (losses["loss_track"] > 0) == (where in ("other objects", "hidden masks"))
    assert (losses["loss_refine"] > 0) == (where in ("references", "other objects"))
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_several_references():
    config = tiny_tracking_fcos_config(recipe="pcan_fcos")
    config.num_references = 2
    torch.manual_seed(0)
    model, batch, seen = instantiate(config), fake_pairs(), []
    batch[0]["references"] *= 2
    model.frame_attention.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[1])))
    assert set(losses_of(model, batch)) == TRACKING | {"loss_refine"}
    assert seen == [0, 1, 2]


@pytest.mark.slow  # two processes import torch, about 10 s
def test_two_processes_of_which_one_has_no_pairs(tmp_path):
    without = fake_pairs(images=1)
    for item in without:
        empty(item)
        empty(item["references"][0])
    (first, losses), (second, others) = train_on_ranks(build, [fake_pairs(images=1), without], tmp_path)
    assert torch.equal(first, second)
    assert losses.keys() == others.keys() == TRACKING | {"loss_refine"}
    assert losses["loss_track"] > 0
    assert others["loss_track"] == others["loss_refine"] == 0


def test_autocast():
    model = build()
    model.detector.test_score_thresh = 0.0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, fake_pairs())
        sum(losses.values()).backward()
        found = model.eval()(fake_video(length=2))
    assert all(value.isfinite() for value in losses.values())
    assert found[1]["instances"].pred_masks.dtype == torch.bool
    assert found[1]["instances"].pred_boxes.tensor.dtype == torch.float32


def detector_of(*frames):
    """In place of the detector: per frame the boxes that it finds; a box of 16 px is of class 0, others of class 1."""
    script = iter(frames)

    def detect(images, features):
        boxes = torch.tensor(next(script), dtype=torch.float32).reshape(-1, 4)
        return [
            Instances(
                images.image_sizes[0],
                pred_boxes=Boxes(boxes),
                scores=torch.linspace(0.9, 0.5, len(boxes)),
                pred_classes=(boxes[:, 2] - boxes[:, 0] != 16).long(),
            )
        ]

    return detect


SMALL, LARGE = [8, 8, 24, 24], [50, 10, 90, 50]


def ids_of(model, frames):
    return [x["instances"].pred_ids.tolist() for x in model(frames)]


@RECIPES
def test_videos_are_told_apart(recipe):
    model = build(recipe).eval()
    model.detect = detector_of([SMALL, LARGE], [LARGE], [LARGE, SMALL], [SMALL], [SMALL])
    assert ids_of(model, fake_video(video_id=1) + fake_video(length=2, video_id=2)) == [[1, 2], [2], [2, 1], [1], [1]]
    assert model.tracker.alive_ids == {1}


def test_a_first_frame_without_detections_forgets_the_last_video_too():
    model = build().eval()
    model.detect = detector_of([SMALL, LARGE], [SMALL, LARGE], [], [LARGE], [SMALL])
    outputs = model(fake_video(length=2, video_id=1) + fake_video(length=3, video_id=2))
    assert [x["instances"].pred_ids.tolist() for x in outputs] == [[1, 2], [1, 2], [], [1], [2]]
    assert outputs[2]["instances"].pred_masks.shape == (0, 64, 96)
    assert outputs[4]["instances"].pred_masks.shape == (1, 64, 96)


def test_duplicates_are_dropped_from_the_result():
    model = build("tracking_fcos").eval()
    model.detect = detector_of([SMALL], [SMALL, SMALL])
    outputs = model(fake_video(length=2))
    assert outputs[1]["instances"].pred_ids.tolist() == [1]
    assert outputs[1]["instances"].scores.tolist() == pytest.approx([0.9])


def test_states_go_with_objects_that_are_forgotten():
    model = build().eval()
    model.tracker = CenterEmbeddingTracker(memory_frames=2)
    model.detect = detector_of([SMALL, LARGE], [LARGE], [LARGE], [LARGE])
    kept = []
    for frame in fake_video(length=4):
        model.step(frame)
        kept.append(set(model._states))
    assert kept == [{1, 2}, {1, 2}, {2}, {2}]


def test_masks_and_boxes_are_in_pixels_of_the_output():
    model = build("tracking_fcos").eval()
    model.detect = detector_of([SMALL])
    found = model.step({**fake_video()[0], "height": 128, "width": 192})
    assert found.pred_boxes.tensor.tolist() == [[16, 16, 48, 48]]
    assert found.pred_masks.shape == (1, 128, 192)


def test_refinement_without_a_pooler_is_refused():
    config = tiny_tracking_fcos_config(recipe="pcan_fcos")
    config.mask_pooler = None
    with pytest.raises(ValueError, match="mask_pooler or an instance_pooler"):
        instantiate(config)


def test_embeddings_of_a_frame_are_computed_once():
    model, calls = build(), []
    model.track_head.register_forward_hook(lambda *args: calls.append(1))
    losses_of(model, fake_pairs())
    assert len(calls) == 2
    model.eval().step(fake_video()[0])
    assert len(calls) == 3
