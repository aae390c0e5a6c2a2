import copy

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, PolygonMasks
from pycocotools import mask as mask_util

from instseg_d2.data import InstanceMapper, OccluderRule, SampleError, register_coco

ALL = ["gt_has_mask", "gt_occluders", "gt_amodal_masks", "gt_ids"]
KEYS = ["instance_id", "depth", "amodal_segmentation", "bg_object_segmentation"]


def polygon(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def run_lengths(x0, y0, x1, y1):
    mask = np.zeros((40, 60), dtype=np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    encoded = mask_util.encode(mask)
    return {"size": [40, 60], "counts": encoded["counts"].decode()}


def rectangle(*windows, height=40, width=60):
    mask = torch.zeros(height, width, dtype=torch.bool)
    for x0, y0, x1, y1 in windows:
        mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def record(content, write, name):
    """Three objects in a row, each over the next one; the masks are the visible parts. Then one of a crowd."""
    rows = [
        # id, box, visible, amodal
        (11, [5, 5, 20, 20], run_lengths(5, 5, 25, 25), run_lengths(5, 5, 25, 25)),
        (12, [15, 10, 25, 20], polygon(25, 10, 40, 30), polygon(15, 10, 40, 30)),
        (13, [35, 10, 20, 20], run_lengths(40, 10, 55, 30), polygon(35, 10, 55, 30)),
        (14, [0, 0, 60, 40], run_lengths(0, 0, 60, 40), None),
    ]
    content["annotations"] = [
        {
            "id": number,
            "image_id": 1,
            "category_id": 7,
            "iscrowd": int(number == 14),
            "area": 1,
            "bbox": box,
            "segmentation": visible,
            "amodal_segmentation": amodal,
            "instance_id": 100 + number,
            "depth": depth,
        }
        for depth, (number, box, visible, amodal) in enumerate(rows)
    ]
    register_coco(name, *write(content), extra_annotation_keys=KEYS)
    return DatasetCatalog.get(name)[0]


def hide(record, *numbers):
    """The record without the masks of some annotations, as a supervision leaves it."""
    hidden = copy.deepcopy(record)
    hidden["partial_masks"] = True
    for number in numbers:
        annotation = hidden["annotations"][number]
        hidden["annotations"][number] = {
            **{key: annotation[key] for key in ("id", "bbox", "bbox_mode", "category_id", "instance_id")},
            "has_mask": False,
        }
    return hidden


def instances(record, *augmentations, **options):
    return InstanceMapper(is_train=True, augmentations=augmentations, **options)(record)["instances"]


def test_all_fields(record):
    result = instances(record, extra_fields=ALL)
    assert set(result.get_fields()) == {"gt_boxes", "gt_classes", "gt_masks", *ALL}
    assert result.gt_has_mask.tolist() == [True] * 3
    assert result.gt_has_mask.dtype == torch.bool
    assert result.gt_ids.tolist() == [111, 112, 113]
    assert result.gt_ids.dtype == torch.int64
    amodal = [rectangle(w) for w in ((5, 5, 25, 25), (15, 10, 40, 30), (35, 10, 55, 30))]
    assert isinstance(result.gt_amodal_masks, BitMasks)
    assert torch.equal(result.gt_amodal_masks.tensor, torch.stack(amodal))
    # Visible parts of the neighbours in the own box; the crowd is none.
    occluders = [
        rectangle(),
        rectangle((15, 10, 25, 25), (40, 10, 40, 30)),
        rectangle((35, 10, 40, 30)),
    ]
    assert isinstance(result.gt_occluders, BitMasks)
    assert torch.equal(result.gt_occluders.tensor, torch.stack(occluders))


@pytest.mark.parametrize("field", ALL)
def test_each_field_alone_and_on_an_empty_image(record, field):
    result = instances(record, extra_fields=[field])
    assert set(result.get_fields()) == {"gt_boxes", "gt_classes", "gt_masks", field}
    empty = instances({**record, "annotations": []}, extra_fields=[field])
    assert len(empty) == 0
    assert set(empty.get_fields()) == {"gt_boxes", "gt_classes", field}
    value, of_empty = (x.get(field) for x in (result, empty))
    assert type(value) is type(of_empty)
    if isinstance(value, BitMasks):
        value, of_empty = value.tensor, of_empty.tensor
    assert value.dtype == of_empty.dtype
    assert of_empty.shape == (0, *value.shape[1:])


def test_fields_follow_the_image(record):
    augmentations = [T.HFlipTransform(60), T.ResizeTransform(40, 60, 80, 120), T.CropTransform(0, 0, 60, 80)]
    result = instances(hide(record, 2), *augmentations, extra_fields=ALL)
    # Mirrored: the first object is out of the crop, the second one is cut, the third one's mask is hidden.
    assert result.gt_ids.tolist() == [112, 113]
    assert result.gt_has_mask.tolist() == [True, False]
    assert result.gt_boxes.tensor.tolist() == [[40, 20, 60, 60], [10, 20, 50, 60]]
    masks = torch.stack([rectangle((40, 20, 60, 60), height=80), rectangle((10, 20, 50, 60), height=80)])
    assert torch.equal(result.gt_masks.tensor, masks)
    assert torch.equal(result.gt_amodal_masks.tensor, masks)
    occluders = torch.stack([rectangle(height=80), rectangle((40, 20, 50, 60), height=80)])
    assert torch.equal(result.gt_occluders.tensor, occluders)


@pytest.mark.parametrize("hidden", [(0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_hidden_masks_keep_their_boxes(record, hidden, mask_format):
    if mask_format == "polygon":
        for number, window in enumerate([(5, 5, 25, 25), (25, 10, 40, 30), (40, 10, 55, 30)]):
            record["annotations"][number]["segmentation"] = polygon(*window)
    whole = instances(record, instance_mask_format=mask_format)
    result = instances(hide(record, *hidden), instance_mask_format=mask_format)
    assert torch.equal(result.gt_boxes.tensor, whole.gt_boxes.tensor)
    assert result.gt_has_mask.tolist() == [number not in hidden for number in range(3)]
    if mask_format == "polygon":
        assert isinstance(result.gt_masks, PolygonMasks)
        result.gt_masks, whole.gt_masks = (BitMasks.from_polygon_masks(x.gt_masks, 40, 60) for x in (result, whole))
    for number, box in enumerate(result.gt_boxes.tensor.long().tolist()):
        expected = rectangle(box) if number in hidden else whole.gt_masks.tensor[number]
        assert torch.equal(result.gt_masks.tensor[number], expected)


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
@pytest.mark.parametrize("recompute_boxes", [True, False])
def test_hidden_instances_of_less_than_a_pixel_stay(record, mask_format, recompute_boxes):
    hidden = hide(record, 0, 1, 2)
    hidden["annotations"][0]["bbox"] = [10.4, 10.4, 0.2, 0.2]
    hidden["annotations"][1]["bbox"] = [10, 10, 0, 5]
    result = instances(hidden, instance_mask_format=mask_format, recompute_boxes=recompute_boxes)
    torch.testing.assert_close(result.gt_boxes.tensor, torch.tensor([[10.4, 10.4, 10.6, 10.6], [35, 10, 55, 30]]))
    assert result.gt_has_mask.tolist() == [False, False]
    assert result.gt_masks.nonempty().all()


def test_recomputed_boxes_are_of_masks_that_may_be_seen(record):
    for annotation in record["annotations"]:
        annotation["bbox"] = [5.5, 6.5, 30, 30]
    boxes = instances(hide(record, 1), recompute_boxes=True).gt_boxes.tensor
    assert boxes.tolist() == [[5, 5, 25, 25], [5.5, 6.5, 35.5, 36.5], [40, 10, 55, 30]]


def test_records_that_hide_masks_always_give_the_flag(record):
    fields = {"gt_boxes", "gt_classes", "gt_masks", "gt_has_mask"}
    assert set(instances(hide(record)).get_fields()) == fields
    assert set(instances({**hide(record), "annotations": []}).get_fields()) == fields - {"gt_masks"}
    assert set(instances(hide(record), use_instance_mask=False).get_fields()) == {"gt_boxes", "gt_classes"}


def test_hidden_masks_are_not_looked_at(record):
    expected = instances(hide(record, 1), extra_fields=ALL)
    record["annotations"][1].update(
        has_mask=False, segmentation="no mask", amodal_segmentation=7, bg_object_segmentation="?", depth="?"
    )
    result = instances(record, extra_fields=ALL)
    for name, value in expected.get_fields().items():
        one, two = (getattr(x, "tensor", x) for x in (value, result.get(name)))
        assert torch.equal(one, two), name


def test_annotations_without_mask_are_hidden_when_the_flag_is_asked_for(record):
    del record["annotations"][0]["segmentation"]
    record["annotations"][1]["segmentation"] = []
    with pytest.raises(SampleError, match=r"1 of 3 annotations have a mask; .*extra_fields=\['gt_has_mask'\]"):
        instances(record)
    assert instances(record, extra_fields=["gt_has_mask"]).gt_has_mask.tolist() == [False, False, True]


def test_occluders_by_another_rule(record):
    options = {"extra_fields": ["gt_occluders"]}
    front = instances(record, occluder_rule=OccluderRule(front_only=True), **options).gt_occluders.tensor
    assert torch.equal(front, torch.stack([rectangle(), rectangle((15, 10, 25, 25)), rectangle((35, 10, 40, 30))]))
    rule = LazyCall(OccluderRule)(iou_above=0.3)
    strict = instances(record, occluder_rule=instantiate(rule), **options)
    assert not strict.gt_occluders.tensor.any()
    hidden = instances(hide(record, 0, 2), occluder_rule=OccluderRule(front_only=True), **options).gt_occluders.tensor
    assert not hidden.any()


def test_stored_occluders(record):
    # Reaches out of the box of the first object, which is [5, 5, 25, 25].
    record["annotations"][0]["bg_object_segmentation"] = [*polygon(20, 0, 30, 10), [1, 1, 2, 2]]
    record["annotations"][1]["bg_object_segmentation"] = []
    result = instances(record, T.ResizeTransform(40, 60, 80, 120), extra_fields=["gt_occluders"]).gt_occluders.tensor
    expected = [rectangle(w, height=80, width=120) for w in ((40, 10, 50, 20), (0, 0, 0, 0), (70, 20, 80, 60))]
    assert torch.equal(result, torch.stack(expected))
    front = instances(record, extra_fields=["gt_occluders"], occluder_rule=OccluderRule(front_only=True))
    assert torch.equal(front.gt_occluders.tensor[1], rectangle((15, 10, 25, 25)))


def test_odd_stored_polygon_is_named(record):
    record["annotations"][1]["bg_object_segmentation"] = [[1, 2, 3, 4, 5, 6, 7]]
    with pytest.raises(SampleError, match=r"annotation 12 of image .*'bg_object_segmentation'\[0\] has 7 numbers"):
        instances(record, extra_fields=["gt_occluders"])


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("instance_id", {"extra_fields": ["gt_ids"]}),
        ("amodal_segmentation", {"extra_fields": ["gt_amodal_masks"]}),
        ("depth", {"extra_fields": ["gt_occluders"], "occluder_rule": OccluderRule(front_only=True)}),
    ],
)
def test_missing_entry_is_named(record, key, options):
    del record["annotations"][1][key]
    with pytest.raises(
        SampleError, match=rf"annotation 12 of image .*: no '{key}', .*extra_annotation_keys=\['{key}'\]"
    ):
        instances(record, **options)
    if key != "instance_id":  # the identity is not of the mask
        assert len(instances(hide(record, 1), **options)) == 3


def test_amodal_mask_of_another_size_is_named(record):
    record["annotations"][2]["amodal_segmentation"] = {"size": [60, 40], "counts": [2400]}
    with pytest.raises(SampleError, match=r"annotation 13 of image .*the mask has \[height, width\] \[60, 40\]"):
        instances(record, extra_fields=["gt_amodal_masks"])


def test_occluders_of_boxes_alone(record):
    for annotation in record["annotations"]:
        annotation["segmentation"] = []
    with pytest.raises(SampleError, match="no annotation has a mask, which gt_occluders is made from"):
        instances(record, extra_fields=["gt_occluders"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_fields": ["has_mask"]}, "must be a list of names of gt_has_mask, gt_occluders"),
        ({"extra_fields": "gt_ids"}, "must be a list of names"),
        ({"extra_fields": ["gt_has_mask", "gt_ids"], "use_instance_mask": False}, "^gt_has_mask come from masks"),
        ({"extra_fields": ["gt_occluders"], "instance_mask_format": "polygon"}, "needs instance_mask_format='bitmask'"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        InstanceMapper(is_train=True, augmentations=[], **options)


def test_identities_without_masks(record):
    result = instances(record, use_instance_mask=False, extra_fields=["gt_ids"])
    assert result.gt_ids.tolist() == [111, 112, 113]
