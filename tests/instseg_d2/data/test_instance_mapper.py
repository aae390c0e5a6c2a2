import copy
import pickle

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

from instseg_d2.data import InstanceMapper, SampleError, register_coco


@pytest.fixture
def records(content, write, name):
    register_coco(name, *write(content))
    return DatasetCatalog.get(name)


def mapper(**changes):
    return InstanceMapper(**{"is_train": True, "augmentations": [], **changes})


def assert_same_sample(one, two):
    assert set(one) == set(two)
    for key in one:
        if key == "image":
            assert one[key].dtype == two[key].dtype
            assert torch.equal(one[key], two[key])
        elif key == "instances":
            assert one[key].image_size == two[key].image_size
            assert set(one[key].get_fields()) == set(two[key].get_fields())
            assert torch.equal(one[key].gt_boxes.tensor, two[key].gt_boxes.tensor)
            assert torch.equal(one[key].gt_classes, two[key].gt_classes)
            if one[key].has("gt_masks"):
                assert torch.equal(one[key].gt_masks.tensor, two[key].gt_masks.tensor)
        else:
            assert one[key] == two[key]


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("recompute_boxes", [True, False])
def test_output_is_that_of_detectron2(records, is_train, recompute_boxes):
    augmentations = [
        T.RandomFlip(),
        T.ResizeShortestEdge((30, 50), 90, "choice"),
        T.RandomCrop("relative_range", (0.6, 0.6)),
    ]
    options = {"augmentations": augmentations, "image_format": "BGR", "recompute_boxes": recompute_boxes}
    reference = DatasetMapper(is_train, use_instance_mask=True, instance_mask_format="bitmask", **options)
    ours = mapper(is_train=is_train, **options)
    for record in records:
        # of whole numbers, which detectron2 rounds down
        fractions = copy.deepcopy(record)
        for annotation in fractions["annotations"]:
            annotation["bbox"] = [float(x) for x in annotation["bbox"]]
        for seed in range(5):
            np.random.seed(seed)
            expected = reference(fractions)
            np.random.seed(seed)
            assert_same_sample(ours(record), expected)


def test_polygons_and_run_lengths_mix(records):
    sample = mapper()(records[0])
    instances = sample["instances"]
    assert sample["image"].shape == (3, 40, 60)
    assert sample["image"].dtype == torch.uint8
    assert (sample["height"], sample["width"], sample["image_id"]) == (40, 60, 1)
    assert isinstance(instances.gt_masks, BitMasks)
    assert instances.gt_boxes.tensor.tolist() == [[10, 5, 30, 15], [40, 20, 50, 32]]
    assert instances.gt_classes.tolist() == [1, 0]
    expected = torch.zeros(2, 40, 60, dtype=torch.bool)
    expected[0, 5:15, 10:30] = True
    expected[1, 20:32, 40:50] = True
    assert torch.equal(instances.gt_masks.tensor, expected)


def test_image_is_read_in_the_asked_format(records):
    bgr = cv2.imread(records[0]["file_name"])
    assert torch.equal(mapper()(records[0])["image"], torch.from_numpy(bgr).permute(2, 0, 1))
    rgb = mapper(image_format="RGB")(records[0])["image"]
    assert torch.equal(rgb, torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1))


def test_inference_gives_the_resized_image_alone(records):
    sample = mapper(is_train=False, augmentations=[T.Resize((20, 30))])(records[0])
    assert sample["image"].shape == (3, 20, 30)
    assert (sample["height"], sample["width"]) == (40, 60)
    assert set(sample) == {"file_name", "image_id", "height", "width", "image"}


def test_record_stays_as_it_is(records):
    record = records[0]
    record["annotations"][0]["segmentation"] = [np.array(record["annotations"][0]["segmentation"][0])]
    before = copy.deepcopy(record)
    mapper(augmentations=[T.Resize((20, 30))])(record)
    np.testing.assert_equal(record, before)


def test_whole_number_polygons_scale_like_fractions(records):
    fractions, whole = copy.deepcopy(records[1]), copy.deepcopy(records[1])
    fractions["annotations"][0]["segmentation"] = [[1.0, 1.0, 8.0, 1.0, 8.0, 7.0]]
    whole["annotations"][0]["segmentation"] = [[1, 1, 8, 1, 8, 7]]
    ours = mapper(augmentations=[T.Resize((50, 75))], instance_mask_format="polygon")
    results = [ours(record)["instances"].gt_masks.polygons[0][0] for record in (fractions, whole)]
    np.testing.assert_allclose(results[0], np.array([1, 1, 8, 1, 8, 7]) * 1.25)
    np.testing.assert_array_equal(results[0], results[1])


def test_whole_number_boxes_scale_like_fractions(records):
    record = copy.deepcopy(records[1])
    record["annotations"][0].update(bbox=[1, 1, 7, 6], bbox_mode=BoxMode.XYWH_ABS)
    boxes = mapper(augmentations=[T.Resize((50, 75))], use_instance_mask=False)(record)["instances"].gt_boxes
    np.testing.assert_allclose(boxes.tensor[0], np.array([1, 1, 8, 7]) * 1.25)


def test_uncompressed_run_lengths(records):
    record = copy.deepcopy(records[1])
    record["annotations"][0]["segmentation"] = {"size": [40, 60], "counts": [40, 3, 2357]}
    record["annotations"][0]["bbox"] = [1, 0, 1, 3]
    mask = mapper()(record)["instances"].gt_masks.tensor[0]
    assert mask.nonzero().tolist() == [[0, 1], [1, 1], [2, 1]]


def test_boxes_alone_give_no_masks(records):
    record = copy.deepcopy(records[0])
    assert not mapper(use_instance_mask=False)(record)["instances"].has("gt_masks")
    for annotation in record["annotations"]:
        del annotation["segmentation"]
    for recompute_boxes in (False, True):
        instances = mapper(recompute_boxes=recompute_boxes)(record)["instances"]
        assert not instances.has("gt_masks")
        assert instances.gt_boxes.tensor.tolist() == [[10, 5, 30, 15], [40, 20, 50, 32]]
    record["annotations"][0]["segmentation"] = []
    assert len(mapper()(record)["instances"]) == 2


def test_crowds_and_emptied_instances_go_and_empty_images_stay(records):
    record = copy.deepcopy(records[0])
    record["annotations"][0]["iscrowd"] = 1
    assert mapper()(record)["instances"].gt_classes.tolist() == [0]

    left = T.CropTransform(0, 0, 35, 40)
    cropped = mapper(augmentations=[left])(records[0])
    assert cropped["instances"].gt_classes.tolist() == [1]
    assert cropped["instances"].gt_masks.tensor.shape == (1, 40, 35)

    corner = mapper(augmentations=[T.CropTransform(0, 35, 10, 5)], recompute_boxes=True)(records[0])
    assert corner["image"].shape == (3, 5, 10)
    assert len(corner["instances"]) == 0

    nothing = mapper(recompute_boxes=True)({**records[0], "annotations": []})
    assert len(nothing["instances"]) == 0
    assert nothing["instances"].gt_boxes.tensor.shape == (0, 4)


def test_zero_area_box_is_dropped(records):
    record = copy.deepcopy(records[0])
    record["annotations"][0]["bbox"] = [10, 5, 0, 10]
    assert mapper()(record)["instances"].gt_classes.tolist() == [0]


def test_emptied_mask_is_dropped_though_its_box_is_not(records):
    record = copy.deepcopy(records[0])
    record["annotations"][0]["segmentation"] = [[10.0, 5.0, 20.0, 5.0, 10.0, 15.0]]
    right = T.CropTransform(22, 0, 38, 40)
    assert mapper(augmentations=[right])(record)["instances"].gt_classes.tolist() == [0]
    assert mapper(augmentations=[right], use_instance_mask=False)(record)["instances"].gt_classes.tolist() == [1, 0]


def test_polygon_format(records):
    masks = mapper(instance_mask_format="polygon")(records[1])["instances"].gt_masks
    assert isinstance(masks, PolygonMasks)
    np.testing.assert_allclose(masks.polygons[0][0], [0, 0, 10, 0, 0, 10])
    with pytest.raises(SampleError, match=r"annotation 12 of image .*needs instance_mask_format='bitmask'"):
        mapper(instance_mask_format="polygon")(records[0])


def test_lazy_call_builds_it(records):
    config = LazyCall(InstanceMapper)(
        is_train=True, augmentations=[LazyCall(T.RandomFlip)(prob=1.0)], image_format="BGR", num_classes=2
    )
    sample = instantiate(config)(records[0])
    assert sample["instances"].gt_boxes.tensor.tolist() == [[30, 5, 50, 15], [10, 20, 20, 32]]


def test_subclass_adds_parallel_truth_before_empty_ones_go(records):
    class WithIds(InstanceMapper):
        def build_instances(self, record, annotations, transforms, height_width):
            instances = super().build_instances(record, annotations, transforms, height_width)
            instances.gt_ids = torch.tensor([annotation["id"] for annotation in annotations])
            return instances

    right = T.CropTransform(35, 0, 25, 40)
    instances = WithIds(is_train=True, augmentations=[right])(records[0])["instances"]
    assert instances.gt_ids.tolist() == [12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instance_mask_format": "rle"}, "instance_mask_format='rle'"),
        ({"recompute_boxes": True, "use_instance_mask": False}, "needs use_instance_mask=True"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        mapper(**options)


def change(**entries):
    def apply(annotation):
        annotation.update(entries)

    return apply


BROKEN = {
    "mask of another size": (
        change(segmentation={"size": [60, 40], "counts": [2400]}),
        r"the mask has \[height, width\] \[60, 40\], the image \[40, 60\]",
    ),
    "mask without size": (change(segmentation={"counts": [2400]}), "KeyError: 'size'"),
    "polygon of three numbers": (change(segmentation=[[1.0, 2.0, 3.0]]), "a polygon has 3 numbers; it needs 6"),
    "odd polygon": (change(segmentation=[[1.0] * 7]), "a polygon has 7 numbers"),
    "polygon with nan": (change(segmentation=[[1.0] * 5 + [float("nan")]]), "finite"),
    "polygon of words": (change(segmentation=[["a"] * 6]), "could not convert"),
    "class too large": (change(category_id=2), r"class index 2 is outside \[0, 2\)"),
    "negative class": (change(category_id=-1), r"class index -1 is outside \[0, 2\)"),
    "short box": (change(bbox=[1, 2, 3]), r"'bbox' must be four finite numbers, not \[1, 2, 3\]"),
    "infinite box": (change(bbox=[1, 2, 3, float("inf")]), "'bbox' must be four finite numbers"),
    "no box": (lambda annotation: annotation.pop("bbox"), "KeyError: 'bbox'"),
    "no box mode": (lambda annotation: annotation.pop("bbox_mode"), "KeyError: 'bbox_mode'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_annotation_is_named(case, records):
    apply, message = BROKEN[case]
    record = copy.deepcopy(records[0])
    apply(record["annotations"][1])
    with pytest.raises(SampleError, match=message) as caught:
        mapper(num_classes=2)(record)
    assert str(caught.value).startswith(f"annotation 12 of image {record['file_name']} (id 1): ")
    # A loader's worker sends its error through pickle.
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_annotation_without_id_is_counted(records):
    record = copy.deepcopy(records[0])
    record["annotations"][0]["iscrowd"] = 1
    record["annotations"][1].update(bbox=[1])
    del record["annotations"][1]["id"]
    with pytest.raises(SampleError, match=r"annotation number 1, which has no id, of image .*a.png"):
        mapper()(record)


def test_some_masks_missing(records):
    record = copy.deepcopy(records[0])
    del record["annotations"][1]["segmentation"]
    with pytest.raises(SampleError, match=r"image .*a.png \(id 1\): 1 of 2 annotations have a mask"):
        mapper()(record)
    assert len(mapper(use_instance_mask=False)(record)["instances"]) == 2


def test_missing_image(records, tmp_path):
    record = {**records[0], "file_name": str(tmp_path / "gone.png")}
    with pytest.raises(SampleError, match=r"image .*gone.png \(id 1\): FileNotFoundError"):
        mapper()(record)


@pytest.mark.parametrize("is_train", [True, False])
def test_truncated_jpeg(records, tmp_path, is_train):
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(SampleError, match=r"cut.jpg \(id 1\): OSError: .*truncated"):
        mapper(is_train=is_train)({**records[0], "file_name": str(path)})


def test_image_of_another_size_than_recorded(records):
    with pytest.raises(SampleError, match=r"a.png \(id 1\): SizeMismatchError: .*60.*40.*61.*40"):
        mapper()({**records[0], "width": 61})


def test_failing_augmentation_names_the_image(records):
    with pytest.raises(SampleError, match=r"image .*a.png \(id 1\): AssertionError"):
        mapper(augmentations=[T.ResizeTransform(9, 9, 4, 4)])(records[0])


def test_record_without_size_gets_it(records):
    record = {key: value for key, value in records[0].items() if key not in ("height", "width")}
    sample = mapper(augmentations=[T.Resize((20, 30))])(record)
    assert (sample["height"], sample["width"]) == (40, 60)
    assert "height" not in record


def test_box_modes(records):
    record = copy.deepcopy(records[1])
    record["annotations"][0].update(bbox=[2, 3, 9, 8], bbox_mode=BoxMode.XYXY_ABS)
    assert mapper()(record)["instances"].gt_boxes.tensor.tolist() == [[2, 3, 9, 8]]


def test_records_of_the_ordinary_loader(content, write):
    path, root = write(content)
    record = load_coco_json(str(path), str(root))[0]
    assert "id" not in record["annotations"][0]
    assert len(mapper()(record)["instances"]) == 2


def large_scale_jitter(size=48):
    return [T.RandomFlip(), T.ResizeScale(0.3, 4.0, size, size), T.FixedSizeCrop((size, size))]


def test_image_box_is_where_the_image_lies(records):
    """A map of ones, transformed with the image, has its content there, up to the rounding of pixels."""
    ours, record = mapper(augmentations=large_scale_jitter(), image_box=True), records[0]
    padded = cut = 0
    for seed in range(12):
        np.random.seed(seed)
        left, top, right, bottom = ours(record)["image_box"]
        np.random.seed(seed)
        augmented = T.AugInput(np.zeros((40, 60, 3), dtype=np.uint8), sem_seg=np.ones((40, 60), dtype=np.uint8))
        T.AugmentationList(large_scale_jitter())(augmented)
        content = augmented.sem_seg == 1
        inside = np.zeros((48, 48), dtype=bool)
        inside[round(max(top, 0)) : round(bottom), round(max(left, 0)) : round(right)] = True
        assert np.array_equal(content, inside)
        padded += not content.all()
        cut += min(left, top) < 0 or max(right, bottom) > 48
    assert padded > 2
    assert cut > 2


def test_image_box_is_given_in_training_when_asked_for(records):
    assert mapper(image_box=True)(records[0])["image_box"] == (0, 0, 60, 40)
    assert "image_box" not in mapper()(records[0])
    assert "image_box" not in mapper(is_train=False, image_box=True)(records[0])


def test_jittered_boxes_are_those_of_the_annotations_clipped_and_filtered(records):
    """Whatever the masks are: in training on boxes these are not read."""
    ours = mapper(augmentations=large_scale_jitter(), use_instance_mask=False, image_box=True)
    seen = 0
    for seed in range(16):
        broken = copy.deepcopy(records[0])
        for annotation in broken["annotations"]:
            annotation["segmentation"] = [[0, 0, 1, 0, 1, 1]]
        np.random.seed(seed)
        sample = ours(broken)
        boxes = sample["instances"].gt_boxes.tensor
        np.random.seed(seed)
        augmented = T.AugInput(np.zeros((40, 60, 3), dtype=np.uint8))
        transforms = T.AugmentationList(large_scale_jitter())(augmented)
        corners = np.array([[10.0, 5, 30, 15], [40, 20, 50, 32]])
        expected = transforms.apply_box(corners).clip(0, 48)
        expected = expected[((expected[:, 2:] - expected[:, :2]) > 1e-5).all(axis=1)]
        np.testing.assert_allclose(boxes.numpy(), expected, atol=1e-4)
        seen += len(boxes)
    assert 0 < seen < 32


def test_ignored_boxes_follow_the_image(tmp_path):
    """Its left 40 x 40 px are mirrored and drawn at twice the size."""
    path = str(tmp_path / "image.png")
    cv2.imwrite(path, np.zeros((40, 60, 3), np.uint8))
    augmentations = [T.CropTransform(0, 0, 40, 40), T.HFlipTransform(40), T.ResizeTransform(40, 40, 80, 80)]

    def box(*numbers, mode=BoxMode.XYWH_ABS, **entries):
        return {"bbox": numbers, "bbox_mode": mode, "category_id": 0, **entries}

    marked = {"iscrowd": 1, "ignored": True, "has_mask": False}
    outside = box(45, 0, 10, 10, **marked)
    record = {
        "file_name": path,
        "image_id": 1,
        "annotations": [
            box(0, 0, 10, 10),
            box(4, 5, 20, 11, **marked),
            outside,
            box(35, 30, 55, 40, mode=BoxMode.XYXY_ABS, **marked),
            box(50, 0, 10, 10),
            box(0, 0, 40, 40, iscrowd=1),
        ],
    }
    instances = mapper(augmentations=augmentations)(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[60, 0, 80, 20]]
    assert instances.gt_ignored.tensor.tolist() == [[32, 10, 72, 32], [0, 60, 10, 80]]
    assert instances.gt_ignored.tensor.dtype == torch.float32
    assert len(instances.gt_ignored) == 1
    record["annotations"] = record["annotations"][1:2]
    assert len(mapper(augmentations=augmentations)(record)["instances"].gt_ignored) == 0
    record["annotations"] = [box(0, 0, 10, 10), outside]
    assert not mapper(augmentations=augmentations)(record)["instances"].has("gt_ignored")
