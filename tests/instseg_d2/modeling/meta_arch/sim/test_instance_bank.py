import copy

import pytest
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.modeling.meta_arch.sim.instance_bank import InstanceBank, confident_objects


def found(masks, scores=None, classes=None):
    masks = torch.as_tensor(masks).bool()
    count = len(masks)
    return Instances(
        tuple(masks.shape[1:]),
        gt_classes=torch.tensor(range(count) if classes is None else classes).long(),
        scores=torch.tensor([0.9] * count if scores is None else scores),
        pseudo_masks=masks,
    )


def picture(value, height=6, width=8):
    return torch.full((3, height, width), value, dtype=torch.uint8)


def square(height=6, width=8):
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, 1:4, 2:5] = True
    return mask


def values(bank):
    return {int(bank.draw().image[0, 0, 0]) for _ in range(60)}


def test_oldest_images_are_forgotten_first():
    bank = InstanceBank(capacity=3)
    assert len(bank) == 0
    for value in range(5):
        assert bank.add(picture(value), found(square()))
    assert len(bank) == 3
    torch.manual_seed(0)
    assert values(bank) == {2, 3, 4}


def test_stored_objects_are_exactly_those_that_were_given():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 37, 53, generator=generator) > 0.6
    image = torch.randint(0, 256, (3, 37, 53), generator=generator, dtype=torch.uint8)
    bank = InstanceBank()
    bank.add(image, found(masks, [0.2, 0.5, 0.9], [4, 0, 7]))
    stored = bank.draw()
    assert torch.equal(stored.image, image)
    assert torch.equal(stored.masks([2, 0]), masks[[2, 0]])
    assert stored.classes.tolist() == [4, 0, 7]
    assert stored.scores.tolist() == pytest.approx([0.2, 0.5, 0.9])


def test_nothing_is_shared_with_what_was_given():
    image, objects = picture(7), found(square())
    bank = InstanceBank()
    bank.add(image[:, :, :], objects)
    image.zero_()
    objects.pseudo_masks.zero_()
    objects.gt_classes.fill_(9)
    objects.scores.zero_()
    stored = bank.draw()
    assert (stored.image == 7).all()
    assert torch.equal(stored.masks([0]), square())
    assert stored.classes.tolist() == [0]
    assert stored.scores.item() > 0


def test_crop_of_a_large_image_does_not_keep_it_alive():
    bank = InstanceBank()
    bank.add(torch.zeros(3, 600, 800, dtype=torch.uint8)[:, :6, :8], found(square()))
    assert bank.draw().image.untyped_storage().nbytes() == 3 * 6 * 8


def test_images_of_one_batch_are_entries_of_their_own():
    bank = InstanceBank()
    for value, label in ((1, 5), (2, 6)):
        bank.add(picture(value), found(square(), classes=[label]))
    torch.manual_seed(0)
    pairs = {(int(stored.image[0, 0, 0]), stored.classes.item()) for stored in (bank.draw() for _ in range(40))}
    assert pairs == {(1, 5), (2, 6)}


def test_objects_that_cannot_be_cut_out_are_left_out():
    bank = InstanceBank()
    empty = torch.zeros_like(square())
    assert not bank.add(picture(1), found(empty))
    assert not bank.add(picture(1), found(square(), [0.0]))
    assert not bank.add(picture(1), found(torch.zeros(0, 6, 8)))
    assert len(bank) == 0
    assert bank.add(picture(1), found(torch.cat([empty, square(), square()]), [0.9, 0.8, 0.0], [1, 2, 3]))
    assert bank.draw().classes.tolist() == [2]


@pytest.mark.parametrize(
    ("image", "objects", "words"),
    [
        (picture(1).float(), found(square()), "uint8, not torch.float32"),
        (picture(1), found(square(7, 8)), r"masks of shape \(1, 7, 8\)"),
    ],
)
def test_mistakes(image, objects, words):
    with pytest.raises(ValueError, match=words):
        InstanceBank().add(image, objects)


def test_a_bank_that_holds_nothing():
    with pytest.raises(ValueError, match="capacity=0"):
        InstanceBank(capacity=0)
    with pytest.raises(IndexError, match="empty"):
        InstanceBank().draw()


def test_copies_are_independent():
    bank = InstanceBank(capacity=2)
    bank.add(picture(1), found(square()))
    other = copy.deepcopy(bank)
    other.add(picture(2), found(square()))
    assert (len(bank), len(other)) == (1, 2)


def test_confident_masks_lie_in_the_box_and_above_the_threshold():
    truth = Instances(
        (4, 6),
        gt_boxes=Boxes(torch.tensor([[1.0, 1, 4, 3], [0, 0, 6, 4], [2, 2, 5, 4]])),
        gt_classes=torch.tensor([3, 1, 2]),
        gt_masks=["never looked at"] * 3,
    )
    probabilities = torch.full((3, 4, 6), 0.2)
    probabilities[0] = 0.9
    probabilities[0, 1, 1] = 0.7  # not above the threshold
    probabilities[2, 2, 2] = 0.8
    objects = confident_objects(truth, probabilities)
    assert objects.gt_classes.tolist() == [3, 2]  # the second has no pixel
    assert objects.gt_boxes.tensor.tolist() == [[1, 1, 4, 3], [2, 2, 5, 4]]
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[1:3, 1:4] = True
    expected[1, 1] = False
    assert torch.equal(objects.pseudo_masks[0], expected)
    assert objects.pseudo_masks[1].nonzero().tolist() == [[2, 2]]
    assert objects.scores.tolist() == pytest.approx([5 * 0.9 / 6, 0.8 / 2])
    assert len(confident_objects(truth, probabilities, threshold=0.95)) == 0
    with pytest.raises(ValueError, match=r"need \(3, 4, 6\)"):
        confident_objects(truth, probabilities[:2])
