"""The protocol of partial supervision on real COCO files and images: what is hidden, VOC's categories, unseen AP."""

import contextlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from instseg_d2.data import (
    CATEGORY_SPLITS,
    InstanceMapper,
    PartialSupervision,
    get_supervised_dataset_dicts,
    register_coco,
)
from instseg_d2.evaluation import SubsetCOCOEvaluator

SAMPLES = Path(__file__).resolve().parents[4] / "shared/data/coco_mini"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the small COCO is not here")
# COCO's own numbers and names of the twenty classes of PASCAL VOC.
_IDS = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72)
_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv"),
)
VOC = dict(zip(_IDS, _NAMES, strict=True))


@pytest.fixture(params=["train", "val"])
def split(request):
    """Content of an annotation file, and the name that it is registered under."""
    file = SAMPLES / f"annotations/instances_{request.param}2017.json"
    name = f"test_coco_mini_{request.param}"
    register_coco(name, file, SAMPLES / f"{request.param}2017")
    yield json.loads(file.read_text()), name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_voc_in_cocos_own_file(split):
    names = {category["id"]: category["name"] for category in split[0]["categories"]}
    assert len(names) == 80
    assert {key: name for key, name in names.items() if name in CATEGORY_SPLITS["coco_voc"]} == VOC
    assert sorted(CATEGORY_SPLITS["coco_nonvoc"]) == sorted(name for key, name in names.items() if key not in VOC)


def test_masks_of_seen_categories_alone(split):
    content, name = split
    records = get_supervised_dataset_dicts(name, supervision=PartialSupervision(seen="coco_voc"), filter_empty=False)
    assert len(records) == len(content["images"]) == 100
    ids = {index: key for key, index in MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id.items()}
    found = Counter(
        (ids[one["category_id"]], "segmentation" in one, one.get("has_mask", True))
        for record in records
        for one in record["annotations"]
    )
    expected = Counter((one["category_id"], *[one["category_id"] in VOC] * 2) for one in content["annotations"])
    assert found == expected
    assert min(sum(n for (_, seen, _), n in found.items() if seen == which) for which in (True, False)) > 200
    assert all(record["partial_masks"] for record in records)


def test_images_through_the_mapper(split):
    """Masks of the file where they may be seen, filled boxes elsewhere."""
    content, name = split
    records = get_supervised_dataset_dicts(name, supervision=PartialSupervision(seen="coco_voc"))
    mapper = InstanceMapper(is_train=True, augmentations=[])
    masks = {}
    for one in content["annotations"]:
        masks.setdefault(one["image_id"], []).append(one)
    hidden = 0
    for record in records[:5]:
        truth = mapper(record)["instances"]
        objects = [one for one in masks[record["image_id"]] if not one["iscrowd"]]
        assert truth.gt_has_mask.tolist() == [one["category_id"] in VOC for one in objects]
        for row, one in enumerate(objects):
            mask = truth.gt_masks.tensor[row].numpy()
            if one["category_id"] in VOC:
                size = one["segmentation"]["size"]
                own = one["segmentation"]
                own = mask_util.frPyObjects(own, *size) if isinstance(own["counts"], list) else own
                assert np.array_equal(mask, mask_util.decode(own).astype(bool))
                continue
            hidden += 1
            x, y, w, h = map(round, one["bbox"])
            assert mask[y : y + h, x : x + w].all()
            assert mask.sum() == w * h
    assert hidden > 0


def moved(content):
    """Predictions by image: masks shifted by up to 5 pixels, each seventh in a wrong category, some missed."""
    ids = sorted(category["id"] for category in content["categories"])
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    found = {key: [] for key in sizes}
    for number, one in enumerate(content["annotations"]):
        if one["iscrowd"] or number % 11 == 0:
            continue
        own = one["segmentation"]
        own = mask_util.frPyObjects(own, *sizes[one["image_id"]]) if isinstance(own["counts"], list) else own
        # Those of VOC less far, so that the two halves have different AP.
        shift = number % (3 if one["category_id"] in VOC else 6)
        mask = np.roll(mask_util.decode(own), shift, axis=number % 2).astype(bool)
        category = (ids.index(one["category_id"]) + (number % 7 == 0)) % len(ids)
        x, y, w, h = one["bbox"]
        found[one["image_id"]].append(([x, y, x + w, y + h], category, (number * 37 % 101) / 101, mask))
    return found, sizes


def test_unseen_ap_is_the_mean_over_unseen_categories(split):
    content, name = split
    halves = {"seen": "coco_voc", "unseen": "coco_nonvoc"}
    evaluator = SubsetCOCOEvaluator(name, ["segm"], distributed=False, category_subsets=halves)
    evaluator.reset()
    found, sizes = moved(content)
    for image_id, entries in found.items():
        instances = Instances(sizes[image_id])
        instances.pred_boxes = Boxes(torch.tensor([box for box, *_ in entries]).reshape(-1, 4))
        instances.pred_classes = torch.tensor([category for _, category, *_ in entries], dtype=torch.int64)
        instances.scores = torch.tensor([score for _, _, score, _ in entries])
        masks = np.array([mask for *_, mask in entries], dtype=bool).reshape(-1, *sizes[image_id])
        instances.pred_masks = torch.from_numpy(masks)
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    with contextlib.redirect_stdout(io.StringIO()):
        results = evaluator.evaluate()
    names = {category["id"]: category["name"] for category in content["categories"]}
    # Categories without an object have no AP.
    there = {one["category_id"] for one in content["annotations"] if not one["iscrowd"]}
    means = {}
    for half, keys in (("seen", there & VOC.keys()), ("unseen", there - VOC.keys())):
        means[half] = np.mean([results["segm"][f"AP-{names[key]}"] for key in sorted(keys)])
        assert results[f"segm_{half}"]["AP"] == pytest.approx(means[half], abs=1e-9)
        assert 10 < means[half] < 90
    assert means["seen"] != pytest.approx(means["unseen"], abs=0.5)
    assert results["segm"]["AP"] != pytest.approx(means["unseen"], abs=0.1)
