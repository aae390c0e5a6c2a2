"""Instances: fields, selection, joining and their errors."""

import copy
import pickle

import pytest
import torch
from detectron2.structures import Boxes, Instances


def people(count=4, size=(10, 20)):
    return Instances(
        size, scores=torch.arange(float(count)), gt_boxes=Boxes(torch.rand(count, 4)), names=list("abcd"[:count])
    )


def test_fields_are_attributes():
    instances = people()
    assert instances.has("scores")
    assert not instances.has("masks")
    assert instances.get("names") is instances.names
    assert set(instances.get_fields()) == {"scores", "gt_boxes", "names"}
    instances.remove("names")
    assert not instances.has("names")
    with pytest.raises(AttributeError, match="names"):
        instances.names  # noqa: B018
    with pytest.raises(KeyError):
        instances.get("names")


def test_all_fields_have_one_length():
    instances = people()
    with pytest.raises(AssertionError):
        instances.gt_classes = torch.zeros(3)
    assert not instances.has("gt_classes")
    assert len(instances) == 4
    with pytest.raises(NotImplementedError):
        len(Instances((1, 1)))
    with pytest.raises(NotImplementedError):
        iter(instances)


def test_selection():
    instances = people()
    instances.remove("names")
    for item, expected in ((slice(1, 3), [1, 2]), (torch.tensor([3, 0]), [3, 0]), (-1, [3])):
        picked = instances[item]
        assert picked.scores.tolist() == expected
        assert len(picked.gt_boxes) == len(expected)
        assert picked.image_size == (10, 20)
    assert instances[instances.scores > 1.5].scores.tolist() == [2, 3]
    assert len(instances[torch.zeros(0, dtype=torch.long)]) == 0
    assert people()[-4].names == ["a"]
    for index in (4, -5):
        with pytest.raises(IndexError):
            instances[index]


def test_cat():
    first, second = people(4), people(2)
    joined = Instances.cat([first, second])
    assert joined.scores.tolist() == [0, 1, 2, 3, 0, 1]
    assert joined.names == list("abcdab")
    assert torch.equal(joined.gt_boxes.tensor[4:], second.gt_boxes.tensor)
    assert Instances.cat([first]) is first
    with pytest.raises(AssertionError):
        Instances.cat([])
    with pytest.raises(AssertionError):
        Instances.cat([first, people(size=(11, 20))])
    with pytest.raises(ValueError, match="str"):
        Instances.cat([Instances((1, 1), word="ab")] * 2)


def test_copies_print_and_move():
    instances = people()
    for other in (copy.deepcopy(instances), pickle.loads(pickle.dumps(instances)), instances.to("cpu")):
        assert str(other) == str(instances)
    text = repr(people(2))
    assert "num_instances=2, image_height=10, image_width=20" in text
    assert "scores: tensor([0., 1.])" in text


@pytest.mark.bundled_only
def test_messages_name_the_cause():
    instances = people()
    with pytest.raises(AssertionError, match="'gt_classes' has length 3, but there are 4"):
        instances.gt_classes = torch.zeros(3)
    with pytest.raises(AttributeError, match="no field 'box'.*scores, gt_boxes"):
        instances.box  # noqa: B018
    assert "num_instances=0" in str(Instances((1, 1)))
