import pytest
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.modeling.meta_arch.solov2 import decoding
from instseg_d2.modeling.meta_arch.solov2.decoding import GridDecoder, soft_masks

# Four mask features: the quadrants of an 8x8 map. A kernel is then the logit of each quadrant.
QUADRANTS = torch.zeros(4, 8, 8)
for number in range(4):
    row, column = divmod(number, 2)
    QUADRANTS[number, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
INSIDE, OUTSIDE = 4.0, -4.0


def kernel(*quadrants):
    return torch.tensor([INSIDE if number in quadrants else OUTSIDE for number in range(4)])


def decode(probabilities, kernels, min_area=4, **settings):
    probabilities = torch.tensor(probabilities)
    areas = torch.full((len(probabilities),), float(min_area))
    return GridDecoder(**settings).decode(
        probabilities, torch.stack(kernels), QUADRANTS, min_areas=areas, image_size=(30, 32)
    )


def test_soft_masks_are_probabilities_of_the_kernels():
    masks = soft_masks(QUADRANTS, torch.stack([kernel(0), kernel(1, 3)]))
    assert masks[0, 0, 0].item() == pytest.approx(1 / (1 + 2.718281828**-INSIDE))
    assert (masks > 0.5).sum(dim=(1, 2)).tolist() == [16, 32]
    assert soft_masks(QUADRANTS, torch.zeros(0, 4)).shape == (0, 8, 8)


def test_scores_are_class_times_mask_probability_best_first():
    found = decode([[0.0, 0.3], [0.9, 0.05]], [kernel(0), kernel(1)])
    inside = torch.tensor(INSIDE).sigmoid().item()
    assert found.pred_classes.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9 * inside, 0.3 * inside])
    assert (found.pred_masks > 0.5).sum(dim=(1, 2)).tolist() == [16, 16]
    assert found.pred_masks[0, 0, 7] > 0.5
    assert found.image_size == (30, 32)


def test_a_cell_may_have_two_classes_with_the_same_mask():
    found = decode([[0.4, 0.6]], [kernel(2)])
    assert found.pred_classes.tolist() == [1, 0]
    assert torch.equal(found.pred_masks[0], found.pred_masks[1])


def test_duplicates_of_a_class_sink_below_the_threshold():
    duplicates = [[0.9, 0.0], [0.8, 0.0], [0.0, 0.7]]
    kernels = [kernel(0), kernel(0), kernel(0)]
    # exp(-2) of the second stays: it is above the threshold of 0.05.
    assert decode(duplicates, kernels).scores.tolist() == pytest.approx(
        [0.9 * 0.98201, 0.7 * 0.98201, 0.8 * 0.98201 * 0.13534], rel=1e-4
    )
    found = decode(duplicates, kernels, nms_score_thresh=0.2)
    assert found.pred_classes.tolist() == [0, 1]
    assert len(decode(duplicates, kernels, nms_kernel="linear")) == 2


def test_small_and_empty_masks_are_no_objects():
    assert len(decode([[0.9]], [kernel(0)], min_area=16)) == 0
    assert len(decode([[0.9]], [kernel(0)], min_area=15)) == 1
    assert len(decode([[0.9]], [kernel()], min_area=0)) == 0


def test_limits_before_and_after_the_nms():
    probabilities = [[0.9], [0.8], [0.7], [0.6]]
    kernels = [kernel(number) for number in range(4)]
    assert decode(probabilities, kernels, nms_topk=3).scores.shape == (3,)
    assert decode(probabilities, kernels, max_per_image=2).scores.tolist() == pytest.approx(
        [0.9 * 0.98201, 0.8 * 0.98201], rel=1e-4
    )


def test_masks_that_are_too_small_take_no_place_before_the_nms():
    found = decode([[0.9], [0.8]], [kernel(), kernel(1)], nms_topk=1)
    assert len(found) == 1
    assert found.pred_masks[0, 0, 7] > 0.5


def test_nothing_above_the_threshold():
    found = decode([[0.1, 0.05]], [kernel(0)])
    assert len(found) == 0
    assert found.pred_masks.shape == (0, 8, 8)
    assert found.pred_classes.dtype == torch.int64
    done = GridDecoder().finish(found, stride=4, output_size=(20, 10))
    assert done.pred_masks.shape == (0, 20, 10)
    assert done.pred_boxes.tensor.shape == (0, 4)


def test_the_memory_for_soft_masks_is_bounded_and_the_result_does_not_depend_on_it(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    probabilities, kernels = torch.rand(50, 3, generator=generator), torch.randn(50, 4, generator=generator)
    areas = torch.full((50,), 4.0)
    expected = GridDecoder().decode(probabilities, kernels, QUADRANTS, min_areas=areas, image_size=(32, 32))
    sizes = []
    plain = decoding.soft_masks
    monkeypatch.setattr(decoding, "soft_masks", lambda f, k: sizes.append(len(k)) or plain(f, k))
    monkeypatch.setattr(decoding, "_FLOATS", 7 * 64)
    found = GridDecoder().decode(probabilities, kernels, QUADRANTS, min_areas=areas, image_size=(32, 32))
    assert max(sizes[:-1]) == 7
    assert sum(sizes[:-1]) <= 50  # one mask a cell, though most cells have several classes
    assert torch.allclose(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)


def test_finish_draws_boxes_around_the_masks_and_leaves_out_what_is_outside():
    found = Instances((32, 16), scores=torch.tensor([0.9, 0.8]), pred_classes=torch.tensor([1, 2]))
    # Of the padded input of 32 x 32 px, the image is the left half: the second mask lies in the padding.
    found.pred_masks = torch.stack([QUADRANTS[2], QUADRANTS[1]])
    found.pred_masks[1, :, 4] = 0  # interpolation reaches one cell far
    done = GridDecoder().finish(found, stride=4, output_size=(64, 32))
    assert done.pred_classes.tolist() == [1]
    assert done.image_size == (64, 32)
    assert done.pred_masks.shape == (1, 64, 32)
    assert done.pred_boxes.tensor.tolist() == [[0, 32, 32, 64]]


def test_finish_keeps_given_boxes_and_empty_masks():
    given = Instances((32, 16), pred_boxes=Boxes(torch.tensor([[0.0, 8, 16, 40]])))
    given.pred_masks = torch.zeros(1, 8, 8)
    done = GridDecoder().finish(given, stride=4, output_size=(64, 32), keep_boxes=True)
    assert done.pred_boxes.tensor.tolist() == [[0, 16, 32, 64]]
    assert not done.pred_masks.any()
    assert given.pred_boxes.tensor.tolist() == [[0, 8, 16, 40]]
