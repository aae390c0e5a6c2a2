import pickle

import pytest
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks

from instseg_d2.data.fields import seen_area
from instseg_d2.data.shared_map import SharedBoxes, SharedMap
from instseg_d2.testing import fake_instances


@pytest.mark.parametrize(
    ("item", "count"),
    [
        (torch.tensor([True, False, True]), 2),
        (torch.tensor([0, 2, 2, 1, 0]), 5),
        (torch.zeros(0, dtype=torch.int64), 0),
        (slice(1, None), 2),
        ([0, 1], 2),
        (2, 1),
    ],
)
def test_rows_share_the_map(item, count):
    instances = Instances((4, 6), scene=SharedMap(torch.rand(1, 4, 6), 3), number=torch.arange(3))
    part = instances[item].scene
    assert len(part) == count
    assert part.tensor is instances.scene.tensor


def test_goes_to_other_devices_and_processes():
    shared = SharedMap(torch.ones(1, 4, 6), 3)
    moved = Instances((4, 6), scene=shared).to("meta").scene
    assert (moved.tensor.device.type, len(moved)) == ("meta", 3)
    copy = pickle.loads(pickle.dumps(shared))
    assert torch.equal(copy.tensor, shared.tensor)
    assert len(copy) == 3
    assert "(1, 4, 6)" in repr(shared)


def test_crops_as_masks_do():
    torch.manual_seed(0)
    truth = fake_instances(32, 48, [[4, 4, 30, 20]])
    boxes = torch.tensor([[2.0, 3.0, 40.0, 30.0], [10.5, 6.2, 20.1, 19.9], [-5, -5, 60, 40]])
    expected = BitMasks(truth.gt_masks.tensor.expand(3, -1, -1)).crop_and_resize(boxes, 14)
    crops = SharedMap(truth.gt_masks.tensor, 3).crop_and_resize(boxes, 14)
    assert crops.shape == (3, 1, 14, 14)
    assert torch.equal(crops[:, 0] >= 0.5, expected)
    assert SharedMap(truth.gt_masks.tensor, 0).crop_and_resize(boxes[:0], 14).shape == (0, 1, 14, 14)


@pytest.mark.parametrize("polygons", [False, True])
def test_area_of_the_seen_masks(polygons):
    truth = fake_instances(32, 48, [[4, 4, 30, 20], [2, 2, 40, 30], [10, 10, 36, 28]])
    expected = truth.gt_masks.tensor[[0, 2]].any(dim=0)
    if polygons:
        corners = [0, 1, 2, 1, 2, 3, 0, 3]
        truth.gt_masks = PolygonMasks([[box[corners]] for box in truth.gt_boxes.tensor.double().numpy()])
    area = seen_area(truth, torch.tensor([True, False, True]))
    assert len(area) == 3
    assert torch.equal(area.tensor[0], expected)
    assert not seen_area(truth, torch.zeros(3, dtype=torch.bool)).tensor.any()
    assert seen_area(fake_instances(32, 48, []), torch.zeros(0, dtype=torch.bool)).tensor.shape == (1, 32, 48)


def test_boxes_are_shared_as_maps_are():
    instances = Instances((4, 6), ignored=SharedBoxes(torch.rand(5, 4), 3), number=torch.arange(3))
    part = instances[torch.tensor([0, 0, 2, 1])].to("cpu").ignored
    assert isinstance(part, SharedBoxes)
    assert len(part) == 4
    assert torch.equal(part.tensor, instances.ignored.tensor)
    assert "SharedBoxes((5, 4)" in repr(part)
