import copy

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from PIL import Image

SQUARE = [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]


@pytest.fixture
def pixels():
    return np.random.RandomState(0).randint(0, 256, (24, 32, 3)).astype(np.uint8)


@pytest.fixture
def png(tmp_path, pixels):
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    return str(path)


def test_formats(png, pixels):
    assert np.array_equal(detection_utils.read_image(png), pixels)
    assert np.array_equal(detection_utils.read_image(png, "RGB"), pixels)
    assert np.array_equal(detection_utils.read_image(png, "BGR"), pixels[:, :, ::-1])
    grey = detection_utils.read_image(png, "L")
    assert grey.shape == (24, 32, 1)
    weighted = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[:, :, 0] - weighted).max() <= 1
    assert np.allclose(detection_utils.read_image(png, "YUV-BT.601")[:, :, 0] * 255, weighted)


def test_back_to_rgb(png, pixels):
    for name in ("RGB", "BGR"):
        assert np.array_equal(detection_utils.convert_image_to_rgb(detection_utils.read_image(png, name), name), pixels)
    yuv = detection_utils.convert_image_to_rgb(detection_utils.read_image(png, "YUV-BT.601"), "YUV-BT.601")
    assert np.abs(yuv - pixels).max() < 0.01
    grey = torch.full((2, 3, 1), 9.0)
    assert np.array_equal(detection_utils.convert_image_to_rgb(grey, "L"), np.full((2, 3, 3), 9, dtype=np.uint8))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, np.rot90),
        (99, lambda a: a),
    ],
)
def test_exif_orientation(tmp_path, pixels, orientation, upright):
    exif = Image.Exif()
    exif[274] = orientation
    path = str(tmp_path / "turned.png")
    Image.fromarray(pixels).save(path, exif=exif)
    assert np.array_equal(detection_utils.read_image(path, "RGB"), upright(pixels))


def test_unreadable_images_are_refused(tmp_path, pixels):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(pixels).resize((200, 200)).save(whole, quality=95)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(OSError, match="."):
        detection_utils.read_image(str(broken), "BGR")
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        detection_utils.read_image(str(tmp_path / "none.jpg"), "BGR")


@pytest.mark.bundled_only
def test_unreadable_images_are_named(tmp_path, pixels):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(pixels).resize((200, 200)).save(whole, quality=95)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(whole.read_bytes()[:2000])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    for path in (broken, text):
        for name in ("BGR", None):
            with pytest.raises(OSError, match=path.name):
                detection_utils.read_image(str(path), name)
    with pytest.raises(ValueError, match=r"whole\.jpg.*'XYZ9'"):
        detection_utils.read_image(str(whole), "XYZ9")


def test_image_size_check(pixels):
    record = {"file_name": "a.png", "width": 32, "height": 24}
    detection_utils.check_image_size(record, pixels)
    filled = {}
    detection_utils.check_image_size(filled, pixels)
    assert filled == {"width": 32, "height": 24}
    with pytest.raises(detection_utils.SizeMismatchError, match=r"a\.png"):
        detection_utils.check_image_size({**record, "width": 31}, pixels)


def test_polygon_annotation_follows_a_flip():
    annotation = {"bbox": [10.0, 10.0, 30.0, 15.0], "bbox_mode": BoxMode.XYWH_ABS, "segmentation": [list(SQUARE)]}
    result = detection_utils.transform_instance_annotations(annotation, [T.HFlipTransform(35)], (24, 35))
    assert result is annotation
    assert result["bbox"].tolist() == [0, 10, 25, 24]  # clipped to the image
    assert result["bbox_mode"] == BoxMode.XYXY_ABS
    assert result["segmentation"][0].tolist() == [25, 10, 15, 10, 15, 20, 25, 20]


def test_rle_annotation_follows_a_flip():
    mask = np.zeros((24, 32), dtype=np.uint8, order="F")
    mask[3:7, 1:5] = 1
    annotation = {"bbox": [1, 3, 4, 4], "bbox_mode": BoxMode.XYWH_ABS, "segmentation": mask_util.encode(mask)}
    result = detection_utils.transform_instance_annotations(copy.deepcopy(annotation), T.HFlipTransform(32), (24, 32))
    assert np.array_equal(result["segmentation"], mask[:, ::-1])
    with pytest.raises((AssertionError, ValueError)):
        detection_utils.transform_instance_annotations(annotation, T.HFlipTransform(32), (24, 33))
    with pytest.raises(ValueError, match="segmentation"):
        detection_utils.transform_instance_annotations({**annotation, "segmentation": "x"}, T.NoOpTransform(), (24, 32))


def test_keypoints_follow_a_flip():
    points = [[5.0, 6.0, 2], [25.0, 6.0, 1], [50.0, 6.0, 2]]
    result = detection_utils.transform_keypoint_annotations(
        points, T.TransformList([T.HFlipTransform(32)]), (24, 32), [1, 0, 2]
    )
    assert result.tolist() == [[7, 6, 1], [27, 6, 2], [0, 0, 0]]
    with pytest.raises(ValueError, match="flip"):
        detection_utils.transform_keypoint_annotations(points, T.TransformList([T.HFlipTransform(32)]), (24, 32))
    indices = detection_utils.create_keypoint_hflip_indices("keypoints_coco_2017_val")
    assert indices == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def annotations(**changes):
    return [
        {
            "bbox": [10.0, 10.0, 20.0, 20.0],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 4,
            "segmentation": [SQUARE],
            **changes,
        }
    ]


def test_instances():
    empty = detection_utils.annotations_to_instances([], (24, 32))
    assert len(empty) == 0
    assert empty.gt_boxes.tensor.shape == (0, 4)
    assert empty.gt_classes.dtype == torch.int64
    target = detection_utils.annotations_to_instances(annotations(), (24, 32))
    assert isinstance(target.gt_masks, PolygonMasks)
    assert target.gt_classes.tolist() == [4]
    expected = np.zeros((24, 32), dtype=bool)
    expected[10:20, 10:20] = True
    forms = [[SQUARE], expected.astype(np.uint8), mask_util.encode(np.asfortranarray(expected.astype(np.uint8)))]
    for form in forms:
        target = detection_utils.annotations_to_instances(
            annotations(segmentation=form), (24, 32), mask_format="bitmask"
        )
        assert isinstance(target.gt_masks, BitMasks)
        assert np.array_equal(target.gt_masks.tensor[0].numpy(), expected)
    with pytest.raises(ValueError, match="polygon"):
        detection_utils.annotations_to_instances(annotations(segmentation=forms[1]), (24, 32))


def test_empty_instances_are_filtered():
    target = Instances((24, 32))
    target.gt_boxes = Boxes([[0, 0, 5, 5], [3, 3, 3, 9], [1, 1, 4, 4]])
    target.gt_masks = BitMasks(torch.tensor([1, 1, 0]).view(3, 1, 1).expand(3, 24, 32))
    kept, mask = detection_utils.filter_empty_instances(target, return_mask=True)
    assert mask.tolist() == [True, False, False]
    assert len(kept) == 1
    assert len(detection_utils.filter_empty_instances(target, by_mask=False)) == 2
    assert len(detection_utils.filter_empty_instances(target, by_box=False)) == 2


def test_crop_around_an_instance():
    instance = {"bbox": [20.0, 2.0, 10.0, 6.0], "bbox_mode": BoxMode.XYWH_ABS}
    for _ in range(30):
        crop = detection_utils.gen_crop_transform_with_instance((8, 10), (24, 32), instance)
        assert (crop.h, crop.w) == (8, 10)
        assert 0 <= crop.x0 <= 25 <= crop.x0 + 10 <= 35
        assert 0 <= crop.y0 <= 5 <= crop.y0 + 8
    with pytest.raises(AssertionError):
        detection_utils.gen_crop_transform_with_instance((30, 10), (24, 32), instance)


def mapper(**changes):
    arguments = {
        "is_train": True,
        "augmentations": [T.ResizeTransform(24, 32, 48, 64), T.HFlipTransform(64)],
        "image_format": "BGR",
        "use_instance_mask": True,
    }
    return DatasetMapper(**{**arguments, **changes})


def test_mapper(png, pixels):
    record = {"file_name": png, "image_id": 3, "annotations": annotations() + annotations(iscrowd=1)}
    before = copy.deepcopy(record)
    result = mapper()(record)
    assert record == before
    assert result["image_id"] == 3
    assert (result["height"], result["width"]) == (24, 32)
    resized = np.asarray(Image.fromarray(pixels[:, :, ::-1]).resize((64, 48), Image.BILINEAR))
    assert np.array_equal(result["image"].numpy(), resized[:, ::-1].transpose(2, 0, 1))
    assert "annotations" not in result
    instances = result["instances"]
    assert instances.image_size == (48, 64)
    assert instances.gt_boxes.tensor.tolist() == [[24, 20, 44, 40]]
    assert instances.gt_masks.polygons[0][0].tolist() == [44, 20, 24, 20, 24, 40, 44, 40]


def test_mapper_for_inference_and_for_boxes(png):
    record = {"file_name": png, "annotations": annotations()}
    result = mapper(is_train=False)(record)
    assert "instances" not in result
    assert "annotations" not in result
    assert not mapper(use_instance_mask=False)(record)["instances"].has("gt_masks")


def test_mapper_recomputes_boxes(png):
    triangle = [10.0, 10.0, 20.0, 10.0, 10.0, 20.0]
    record = {"file_name": png, "annotations": annotations(segmentation=[triangle])}
    augs = [T.CropTransform(15, 0, 17, 24)]
    loose = mapper(augmentations=augs)(record)["instances"]
    assert loose.gt_boxes.tensor.tolist() == [[0, 10, 5, 20]]
    tight = mapper(augmentations=augs, recompute_boxes=True)(record)["instances"]
    assert tight.gt_boxes.tensor.tolist() == [[0, 10, 5, 15]]
    with pytest.raises(AssertionError):
        mapper(use_instance_mask=False, recompute_boxes=True)


@pytest.mark.bundled_only
def test_mapper_recomputes_boxes_of_images_without_instances(png):
    assert len(mapper(recompute_boxes=True)({"file_name": png, "annotations": []})["instances"]) == 0


def test_mapper_reads_label_maps(png, tmp_path):
    labels = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
    path = str(tmp_path / "labels.png")
    Image.fromarray(labels).save(path)
    result = mapper(augmentations=[T.HFlipTransform(32)])({"file_name": png, "sem_seg_file_name": path})
    assert result["sem_seg"].dtype == torch.int64
    assert np.array_equal(result["sem_seg"].numpy(), labels[:, ::-1])


def test_mapper_from_a_config(png):
    cfg = get_cfg()
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.MODEL.MASK_ON = True
    train = DatasetMapper(cfg)
    assert [type(a) for a in train.augmentations.augs] == [T.RandomCrop, T.ResizeShortestEdge, T.RandomFlip]
    assert train.recompute_boxes
    assert train.instance_mask_format == "bitmask"
    test = DatasetMapper(cfg, False)
    assert [type(a) for a in test.augmentations.augs] == [T.ResizeShortestEdge]
    assert not test.recompute_boxes
    assert min(test({"file_name": png})["image"].shape[1:]) == 800
    cfg.INPUT.RANDOM_FLIP = "none"
    assert len(detection_utils.build_augmentation(cfg, True)) == 1
