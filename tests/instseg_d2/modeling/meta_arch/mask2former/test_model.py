from functools import partial

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from instseg_d2.layers.mask_boxes import tight_boxes
from instseg_d2.modeling.meta_arch.mask2former.decoding import best_pairs, certainty, finish
from instseg_d2.modeling.meta_arch.mask2former.matcher import BoxMatcher
from instseg_d2.modeling.meta_arch.mask2former.transformer_decoder import QueryOutput
from instseg_d2.testing import fake_batch, tiny_mask2former, tiny_mask2former_config, train_on_ranks, without_objects

RECIPES = ("mask2former", "mask2former_box")


def given(image, boxes, classes):
    instances = Instances(tuple(image.shape[1:]))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def answering(model, mask_logits, class_logits):
    """The model, whose queries say what they are told to, whatever they see."""
    model.decoder.forward = lambda features, last_only=False: [QueryOutput(class_logits, mask_logits)]
    return model.eval()


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_step(recipe):
    model = tiny_mask2former(recipe=recipe)
    assert sum(p.numel() for p in model.parameters()) < 2e5
    losses = model(fake_batch())
    parts = ("class", "mask", "dice") if recipe == "mask2former" else ("class", "prj", "pairwise")
    assert set(losses) == {f"loss_{part}{layer}" for part in parts for layer in ("", "_0", "_1")}
    sum(losses.values()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("recipe", RECIPES)
def test_images_without_objects(recipe):
    model = tiny_mask2former(recipe=recipe)
    losses = model(without_objects(fake_batch()))
    keys = set(model(fake_batch()))
    assert set(losses) == keys
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("recipe", RECIPES)
def test_mixed_images(recipe):
    """One image has no objects and no masks; sizes differ."""
    batch = without_objects(fake_batch(1)) + fake_batch(1, 96, 64)
    losses = tiny_mask2former(recipe=recipe)(batch)
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.slow  # starts two processes
def test_two_ranks_of_which_one_has_no_objects(tmp_path):
    build = partial(tiny_mask2former, recipe="mask2former_box")
    (first, one), (second, two) = train_on_ranks(build, [fake_batch(), without_objects(fake_batch())], tmp_path)
    assert torch.equal(first, second)
    assert one.keys() == two.keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("recipe", RECIPES)
def test_autocast(recipe, dtype):
    model = tiny_mask2former(recipe=recipe)
    with torch.autocast("cpu", dtype=dtype):
        losses = model(fake_batch())
    assert {value.dtype for value in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    with torch.autocast("cpu", dtype=dtype):
        output = model.eval()(fake_batch(1))
    assert output[0]["instances"].scores.dtype == torch.float32


def test_predictions_in_the_size_of_the_output():
    model = tiny_mask2former().eval()
    batch = fake_batch(2)
    batch[1].update(height=100, width=150)
    first, second = (x["instances"] for x in model(batch))
    assert first.pred_masks.shape[1:] == (64, 96)
    assert second.pred_masks.shape[1:] == (100, 150)
    for found in (first, second):
        assert found.pred_masks.dtype == torch.bool
        assert torch.equal(found.pred_boxes.tensor, tight_boxes(found.pred_masks))
        assert (found.scores.diff() <= 0).all()
        assert (found.pred_classes < 3).all()
        assert set(found.get_fields()) == {"pred_boxes", "pred_classes", "pred_masks", "scores"}


def test_an_image_has_the_same_predictions_alone_as_in_a_batch():
    model = tiny_mask2former().eval()
    batch = fake_batch(2)
    together, alone = model(batch)[1]["instances"], model(batch[1:])[0]["instances"]
    torch.testing.assert_close(together.scores, alone.scores, atol=1e-4, rtol=1e-3)


def test_best_pairs_by_hand():
    classes = torch.tensor([[0.6, 0.3, 0.1], [0.05, 0.05, 0.9], [0.2, 0.7, 0.1]]).log()
    masks = torch.arange(3.0)[:, None, None].expand(3, 2, 2)
    found = best_pairs(classes, masks, (8, 8), 3)
    assert found.scores.tolist() == pytest.approx([0.7, 0.6, 0.3])
    assert found.pred_classes.tolist() == [1, 0, 1]
    assert found.mask_logits[:, 0, 0].tolist() == [2, 0, 0]
    assert len(best_pairs(classes, masks, (8, 8), 100)) == 6


def test_scores_are_class_times_certainty_and_empty_masks_go():
    logits = torch.full((3, 8, 8), -5.0)
    logits[0, :4], logits[1, :, :4] = 1.0, 3.0
    assert certainty(logits).tolist() == pytest.approx([1 / (1 + 2.71828**-1), 1 / (1 + 2.71828**-3), 0], abs=1e-4)
    scores, classes = torch.tensor([0.5, 0.5, 0.9]), torch.tensor([1, 2, 0])
    instances = Instances((32, 32), scores=scores, pred_classes=classes, mask_logits=logits)
    found = finish(instances, padded_size=(32, 32), output_size=(32, 32))
    assert found.pred_classes.tolist() == [2, 1]
    assert found.scores[0] > found.scores[1] > 0.3
    assert found.pred_boxes.tensor[0].tolist() == pytest.approx([0, 0, 16, 32], abs=2)


def test_masks_are_enlarged_in_parts(monkeypatch):
    logits = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = torch.linspace(0.9, 0.5, 5)
    instances = Instances((28, 32), scores=scores, pred_classes=torch.zeros(5, dtype=torch.int64), mask_logits=logits)
    sizes = {"padded_size": (32, 32), "output_size": (42, 48)}
    whole = finish(instances, **sizes)
    monkeypatch.setattr("instseg_d2.modeling.meta_arch.mask2former.decoding._ELEMENTS", 1)
    parts = finish(instances, **sizes)
    assert torch.equal(whole.pred_masks, parts.pred_masks)
    torch.testing.assert_close(whole.scores, parts.scores)
    large = F.interpolate(logits[None], size=(32, 32), mode="bilinear")[:, :, :28]
    large = F.interpolate(large, size=(42, 48), mode="bilinear")[0] > 0
    assert {mask.sum().item() for mask in whole.pred_masks} == {mask.sum().item() for mask in large}


def test_given_boxes_get_the_masks_that_fit_them():
    """Three queries: the left half, the right half, and all of it, of one class."""
    model = tiny_mask2former()
    masks = torch.full((1, 3, 16, 24), -4.0)
    masks[0, 0, :, :12] = masks[0, 1, :, 12:] = masks[0, 2] = 4.0
    answering(model, masks, torch.zeros(1, 3, 4))
    batch = fake_batch(1)
    boxes = given(batch[0]["image"], [[46, 0, 96, 64], [0, 2, 50, 64]], [1, 1])
    found = model.inference(batch, [boxes])[0]["instances"]
    assert found.pred_boxes.tensor.tolist() == boxes.pred_boxes.tensor.tolist()
    left = found.pred_masks[:, :, :48].float().mean(dim=(1, 2))
    right = found.pred_masks[:, :, 48:].float().mean(dim=(1, 2))
    assert left.tolist() == pytest.approx([0, 1], abs=0.05)
    assert right.tolist() == pytest.approx([1, 0], abs=0.05)


def test_given_boxes_keep_number_order_and_fields():
    model = tiny_mask2former().eval()
    batch = fake_batch(3)
    batch[0].update(height=128, width=192)
    many = [[4 * i, 4, 4 * i + 20, 40] for i in range(14)]  # more than there are queries
    boxes = [given(batch[0]["image"], many, [0] * 14), given(batch[1]["image"], [[0, 0, 0, 0]], [2])]
    boxes.append(given(batch[2]["image"], [], []))
    boxes[0].scores = torch.linspace(0, 1, 14)
    found = [x["instances"] for x in model.inference(batch, boxes)]
    assert [len(x) for x in found] == [14, 1, 0]
    torch.testing.assert_close(found[0].pred_boxes.tensor, torch.tensor(many).float() * 2)
    assert torch.equal(found[0].scores, boxes[0].scores)
    assert found[0].pred_masks.shape == (14, 128, 192)
    assert found[2].pred_masks.shape == (0, 64, 96)


@pytest.mark.parametrize("boxes", [False, True])
def test_without_postprocessing(boxes):
    model = tiny_mask2former().eval()
    batch = fake_batch(2)
    batch[0].update(height=640, width=960)
    detected = [given(x["image"], [[8, 8, 40, 40]], [0]) for x in batch] if boxes else None
    found = model.inference(batch, detected, do_postprocess=False)
    assert [x.image_size for x in found] == [(64, 96)] * 2
    for x in found:
        assert x.pred_masks.shape == (len(x), 16, 24)
        assert 0 <= x.pred_masks.min() <= x.pred_masks.max() <= 1
        assert not x.has("mask_logits")
    if not boxes:
        assert torch.equal(found[0].pred_boxes.tensor, tight_boxes(found[0].pred_masks > 0.5) * 4)


def test_pixel_features_are_those_of_the_step():
    """What a model with prototypes takes from the step, and from images of its own."""
    model = tiny_mask2former()
    steps = []
    model.query_losses = lambda step: steps.append(step) or {"loss": step.mask_features.sum()}
    batch = fake_batch()
    model(batch)
    (step,) = steps
    assert step.mask_features.shape == (2, 16, 16, 24)
    assert step.stride == 4
    model.eval()
    features = model.pixel_features(model.preprocess_image(batch))
    assert features.masks.shape == step.mask_features.shape
    assert len(step.outputs) == 3


def test_settings_reach_the_parts():
    config = tiny_mask2former_config(5, recipe="mask2former_box")
    config.supervision.matcher.corner_weight = 3.0
    model = instantiate(config)
    assert model.decoder.classifier.out_features == 6
    assert model.supervision.colors.input_format == model.input_format == "RGB"
    assert model.supervision.matcher.corner_weight == 3.0
    assert isinstance(model.box_matcher, BoxMatcher)
