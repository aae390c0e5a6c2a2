import copy

import pytest
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.modeling.meta_arch.sim.copy_paste import CopyPaste
from instseg_d2.modeling.meta_arch.sim.instance_bank import InstanceBank

SIZE = (20, 30)
FIELDS = {"gt_boxes", "gt_classes", "gt_masks", "gt_has_mask", "gt_pasted"}


def truth(boxes, classes=None, size=SIZE):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    classes = torch.tensor([0] * len(boxes) if classes is None else classes).long()
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes)


def rectangles(boxes, size=SIZE):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def pseudo(boxes, classes=None, scores=None, size=SIZE):
    objects = truth(boxes, classes, size)
    objects.scores = torch.tensor([0.9] * len(boxes) if scores is None else scores)
    objects.pseudo_masks = rectangles(boxes, size)
    return objects


def image(value, size=SIZE):
    return torch.full((3, *size), value, dtype=torch.uint8)


def pasting(stored, value=200, *, size=SIZE, **settings):
    """Always pastes from one stored image; `stored` are its objects."""
    model = CopyPaste(bank=InstanceBank(capacity=1), **{"probability": 1.0, **settings})
    model.remember([image(value, size)], [stored])
    return model


def paste_one(model, boxes, value=10, size=SIZE):
    images, instances = model.paste([image(value, size)], [truth(boxes, size=size)])
    return images[0], instances[0]


def covers(mask, x0, y0, x1, y1):
    return torch.equal(mask, rectangles([[x0, y0, x1, y1]], tuple(mask.shape))[0])


def test_pixels_boxes_and_masks_of_a_paste():
    model = pasting(pseudo([[5, 4, 15, 12]], classes=[7]))
    picture, result = paste_one(model, [[0, 0, 10, 10]])
    inside = rectangles([[5, 4, 15, 12]])[0]
    assert torch.equal(picture, torch.where(inside, 200, 10).to(torch.uint8).expand(3, -1, -1))
    assert set(result.get_fields()) == FIELDS
    assert result.gt_pasted.tolist() == result.gt_has_mask.tolist() == [False, True]
    assert result.gt_classes.tolist() == [0, 7]
    assert torch.equal(result.gt_masks.tensor[1], inside)
    assert torch.equal(result.gt_masks.tensor[0], rectangles([[0, 0, 10, 10]])[0] & ~inside)
    # An L is left of the first, whose box it still spans.
    assert result.gt_boxes.tensor.tolist() == [[0, 0, 10, 10], [5, 4, 15, 12]]


@pytest.mark.parametrize(
    ("box", "left"),
    [
        ([4.5, 2.25, 12.75, 8.5], [4.5, 2.25, 10, 8.5]),  # its right part is covered
        ([12.5, 2.5, 29.5, 8.5], [20, 2.5, 29.5, 8.5]),  # its left part
        ([11.5, 3.0, 12.5, 18.5], [11.5, 10, 12.5, 18.5]),  # its upper part
        ([11.25, 11.5, 14.75, 18.25], [11.25, 11.5, 14.75, 18.25]),  # not touched
        ([2, 1, 28, 19], [2, 1, 28, 19]),  # the paste lies inside
    ],
)
def test_boxes_shrink_to_what_can_be_seen_and_keep_their_other_sides(box, left):
    model = pasting(pseudo([[10, 0, 20, 10]]))
    _, result = paste_one(model, [box])
    assert result.gt_boxes.tensor[0].tolist() == pytest.approx(left)
    assert len(result) == 2


@pytest.mark.parametrize(
    ("box", "least_visible", "stays"),
    [
        ([10, 0, 20, 10], 0.0, False),  # all of it
        ([11.5, 2.5, 19.5, 9.5], 0.0, False),
        ([10, 0, 20, 11], 0.0, True),
        ([10, 0, 20, 11], 0.1, False),  # 1 of 11 rows is seen
        ([10, 0, 20, 20], 0.4, True),
        ([9.75, 2, 20, 10], 0.0, False),  # a quarter of a pixel is left
    ],
)
def test_covered_objects_are_removed(box, least_visible, stays):
    model = pasting(pseudo([[10, 0, 20, 10]]), least_visible=least_visible)
    _, result = paste_one(model, [box, [22, 12, 28, 18]])
    assert len(result) == 2 + stays
    assert result.gt_pasted.tolist() == [False] * (1 + stays) + [True]
    assert result.gt_boxes.tensor[-2].tolist() == [22, 12, 28, 18]
    assert result.gt_masks.tensor.flatten(1).any(dim=1).all()


def test_larger_and_smaller_stored_images_are_aligned_and_cut():
    wide = pseudo([[20, 2, 40, 8], [35, 20, 39, 24]], scores=[0.9, 0.9], size=(25, 40))
    model = pasting(wide, size=(25, 40), number=(2, 2))
    picture, result = paste_one(model, [[0, 0, 5, 5]])
    # What ends beyond the border is cut off there, and what lies beyond is no object.
    assert result.gt_boxes.tensor.tolist() == [[0, 0, 5, 5], [20, 2, 30, 8]]
    assert covers(result.gt_masks.tensor[1], 20, 2, 30, 8)
    assert (picture[0] == 200).sum() == 60
    small = pseudo([[1, 1, 4, 4]], size=(6, 7))
    picture, result = paste_one(pasting(small, size=(6, 7)), [])
    assert result.gt_boxes.tensor.tolist() == [[1, 1, 4, 4]]
    assert result.gt_masks.tensor.shape == (1, *SIZE)
    assert torch.equal(picture[0] == 200, result.gt_masks.tensor[0])


def test_pixels_of_overlapping_pastes_belong_to_the_surest():
    objects = pseudo([[0, 0, 10, 10], [5, 0, 15, 10], [6, 2, 9, 5]], classes=[1, 2, 3], scores=[0.5, 0.9, 0.4])
    _, result = paste_one(pasting(objects, number=(3, 3)), [])
    assert result.gt_classes.tolist() == [2, 1]  # nothing is left of the third
    assert covers(result.gt_masks.tensor[0], 5, 0, 15, 10)
    assert covers(result.gt_masks.tensor[1], 0, 0, 5, 10)
    assert result.gt_boxes.tensor.tolist() == [[5, 0, 15, 10], [0, 0, 5, 10]]


@pytest.mark.parametrize(("stored", "pasted"), [(1, 1), (2, 1), (7, 1), (8, 2), (11, 2), (12, 3), (24, 3)])
def test_a_quarter_of_the_objects_is_pasted(stored, pasted):
    objects = pseudo([[i, 0, i + 1, 1] for i in range(stored)])
    _, result = paste_one(pasting(objects), [])
    assert len(result) == pasted
    assert len(set(map(tuple, result.gt_boxes.tensor.tolist()))) == pasted  # none twice


def test_few_objects_are_pasted_once_each():
    _, result = paste_one(pasting(pseudo([[0, 0, 1, 1], [2, 0, 3, 1]]), number=(5, 9)), [])
    assert len(result) == 2


def test_objects_are_drawn_by_the_cube_of_their_score():
    model = pasting(pseudo([[0, 0, 4, 4], [10, 0, 14, 4]], classes=[0, 1], scores=[0.4, 0.8]))
    torch.manual_seed(0)
    picked = torch.tensor([paste_one(model, [])[1].gt_classes.item() for _ in range(600)])
    assert picked.float().mean().item() == pytest.approx(8 / 9, abs=0.035)  # 2.7 standard deviations


def test_scores_whose_cube_vanishes_can_be_drawn():
    objects = pseudo([[0, 0, 4, 4], [10, 0, 14, 4]])
    objects.scores = torch.tensor([1e-300, 1.0], dtype=torch.float64)
    _, result = paste_one(pasting(objects, number=(2, 2)), [])
    assert len(result) == 2


def test_one_draw_decides_for_the_batch():
    model = pasting(pseudo([[0, 0, 4, 4]]), probability=0.3)
    torch.manual_seed(0)
    counts = []
    for _ in range(400):
        _, results = model.paste([image(1)] * 3, [truth([])] * 3)
        counts.append([len(result) for result in results])
    assert {tuple(count) for count in counts} == {(0, 0, 0), (1, 1, 1)}
    assert sum(count[0] for count in counts) / 400 == pytest.approx(0.3, abs=0.065)  # 2.8 standard deviations


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_fields_are_the_same_without_a_paste(probability):
    model = pasting(pseudo([[20, 10, 24, 14]]), probability=probability)
    picture, result = paste_one(model, [[1.5, 2, 3.25, 4]])
    assert set(result.get_fields()) == FIELDS
    assert len(result) == 1 + probability
    assert result.gt_has_mask.dtype == result.gt_pasted.dtype == result.gt_masks.tensor.dtype == torch.bool
    assert covers(result.gt_masks.tensor[0], 1, 2, 4, 4)  # every pixel that the box touches
    assert not result.gt_has_mask[0]
    assert (picture == 10).all() == (probability == 0)


def test_nothing_is_pasted_before_the_bank_is_full():
    model = CopyPaste(bank=InstanceBank(capacity=3), probability=1.0)
    lengths = []
    for _ in range(3):
        _, results = model([image(1)] * 2, [truth([])] * 2, [pseudo([[0, 0, 4, 4]]), pseudo([])])
        lengths.append([len(result) for result in results])
    assert lengths == [[0, 0]] * 3
    assert [len(x) for x in model([image(1)], [truth([])], [pseudo([])])[1]] == [1]
    early = CopyPaste(bank=InstanceBank(capacity=3), probability=1.0, least_images=1)
    early.remember([image(1)], [pseudo([[0, 0, 4, 4]])])
    assert len(paste_one(early, [])[1]) == 1


def test_an_image_is_not_pasted_into_itself():
    model = CopyPaste(bank=InstanceBank(capacity=1), probability=1.0)
    picture = image(50)
    for value in (50, 60):
        picture = image(value)
        images, _ = model([picture], [truth([])], [pseudo([[0, 0, 4, 4]])])
    assert images[0][0, 0, 0] == 50  # of the image before
    assert images[0][0, 10, 10] == 60


def test_inputs_and_bank_stay_as_they_are_and_share_nothing():
    for probability in (0.0, 1.0):
        model = pasting(pseudo([[2, 2, 8, 8]], classes=[5]), probability=probability)
        picture, objects = image(3), truth([[1, 1, 5.5, 5.5]])
        before = picture.clone(), copy.deepcopy(objects)
        images, results = model.paste([picture], [objects])
        images[0].zero_()
        for value in (results[0].gt_boxes.tensor, results[0].gt_masks.tensor, results[0].gt_classes):
            value.zero_()
        results[0].gt_pasted.fill_(True)
        assert not results[0].gt_has_mask[0]
        assert torch.equal(picture, before[0])
        assert torch.equal(objects.gt_boxes.tensor, before[1].gt_boxes.tensor)
        assert set(objects.get_fields()) == {"gt_boxes", "gt_classes"}
        stored = model.bank.draw()
        assert (stored.image == 200).all()
        assert stored.classes.tolist() == [5]
        assert stored.masks([0]).sum() == 36


def test_masks_of_the_ground_truth_are_not_looked_at():
    model = pasting(pseudo([[2, 2, 8, 8]]))
    plain = truth([[1, 1, 5, 5]])
    masked = Instances(SIZE, **plain.get_fields(), gt_masks=["anything"], gt_has_mask=["anything"])
    for state in (0, 1):
        torch.manual_seed(state)
        first = model.paste([image(1)], [plain])[1][0]
        torch.manual_seed(state)
        second = model.paste([image(1)], [masked])[1][0]
        assert torch.equal(first.gt_masks.tensor, second.gt_masks.tensor)


def test_same_seed_same_pastes():
    def run(seed):
        model = CopyPaste(bank=InstanceBank(capacity=4), probability=0.7)
        torch.manual_seed(seed)
        history = []
        for step in range(12):
            objects = pseudo([[step, k, step + 6, k + 5] for k in range(8)], scores=[0.1 * (k + 1) for k in range(8)])
            images, results = model([image(step)], [truth([[3, 3, 20, 18]])], [objects])
            history.append((images[0], results[0].gt_boxes.tensor))
        return history

    def equal(one, other):
        return all(torch.equal(x[part], y[part]) for x, y in zip(one, other, strict=True) for part in (0, 1))

    assert equal(run(1), run(1))
    assert [len(boxes) for _, boxes in run(1)] != [len(boxes) for _, boxes in run(2)]


def test_bank_is_not_saved_and_fills_again_after_a_resume():
    """As documented: a checkpoint holds no pixels, and a restored model pastes nothing until it has seen enough."""
    model = pasting(pseudo([[0, 0, 4, 4]]))
    assert model.state_dict() == {}
    again = CopyPaste(bank=InstanceBank(capacity=1), probability=1.0)
    again.load_state_dict(model.state_dict())
    assert len(again.bank) == 0
    assert [len(paste_one(again, [])[1]), len(paste_one(model, [])[1])] == [0, 1]
    again.remember([image(9)], [pseudo([[0, 0, 4, 4]])])
    assert len(paste_one(again, [])[1]) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"probability": 1.5},
        {"share": -0.1},
        {"number": (0, 3)},
        {"number": (3, 2)},
        {"least_visible": 1.0},
        {"least_images": 0},
        {"least_images": 3},
    ],
)
def test_settings_out_of_bounds(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        CopyPaste(bank=InstanceBank(capacity=2), **settings)


def test_ground_truth_of_another_image():
    model = pasting(pseudo([[0, 0, 4, 4]]))
    with pytest.raises(ValueError, match=r"ground truth of a \(20, 30\) image"):
        model.paste([image(1, (21, 30))], [truth([])])
