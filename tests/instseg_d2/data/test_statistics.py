import torch
from detectron2.structures import BitMasks

from instseg_d2.data.statistics import SampleStatistics
from instseg_d2.testing import fake_instances


def lines(*samples, names=("cup", "pear", "lemon")):
    statistics = SampleStatistics(names)
    for instances, annotations in samples:
        statistics.add(instances, annotations)
    return statistics.lines()


def test_numbers_by_hand():
    first = fake_instances(100, 120, [[0, 0, 10, 10], [0, 0, 40, 40], [20, 0, 120, 100]], [0, 1, 1])
    found = lines((first, [{}, {}, {}, {"iscrowd": 1}, {}]), (fake_instances(90, 130, []), []))
    assert found == [
        "2 images after augmentation: height 90 to 100, width 120 to 130 px",
        "3 instances: mean 1.5 an image, median 1.5, most 3; 1 images without any (50 %)",
        "5 annotations in the records: 1 crowd regions, 1 left out by the mapper, or emptied by augmentation",
        "size (square root of the box area): 5 % below 13 px, median 40, 5 % above 94; 33 % below 32 px, "
        "33 % from 96 px",
        "without a mask for the loss: 0.0 %",
        "2 of 3 classes: pear 2, cup 1",
    ]


def test_optional_fields():
    instances = fake_instances(50, 50, [[0, 0, 20, 20], [0, 0, 20, 20], [0, 0, 20, 20], [0, 0, 20, 20]])
    instances.gt_has_mask = torch.tensor([True, True, True, False])
    amodal, occluders = instances.gt_masks.tensor.clone(), torch.zeros(4, 50, 50, dtype=torch.bool)
    amodal[0, 20:40, :20] = True  # half of it is hidden
    amodal[3] = True  # of a hidden mask nothing may be told
    occluders[:2, 5, 5] = True
    instances.gt_amodal_masks, instances.gt_occluders = BitMasks(amodal), BitMasks(occluders)
    found = lines((instances, [{}] * 4))
    assert "without a mask for the loss: 25.0 %" in found
    assert "with an occluder in the box: 50.0 %" in found
    expected = "part of the amodal mask that gt_masks lacks: mean 16.7 %, more than a fifth of 33.3 % of the instances"
    assert expected in found


def test_boxes_alone_have_no_masks():
    instances = fake_instances(50, 50, [[0, 0, 20, 20]])
    instances.remove("gt_masks")
    assert "without a mask for the loss: 100.0 %" in lines((instances, []))


def test_nothing_to_count():
    assert lines() == ["no images"]
    assert len(lines((fake_instances(9, 9, []), []))) == 3
    assert lines((fake_instances(9, 9, [[0, 0, 5, 5]], [2]), []), names=None)[-1] == "1 classes: 2 1"
