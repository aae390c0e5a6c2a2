"""The mapper that pastes: whole samples, occluders, worker seeds, supervision, and what it cannot use."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.samplers import TrainingSampler

from instseg_d2.data import (
    DatasetError,
    InstanceMapper,
    PartialSupervision,
    SampleError,
    get_supervised_dataset_dicts,
    occluder_masks,
    register_coco,
)
from instseg_d2.data.occlusion_paste import OcclusionPasteMapper, PasteOcclusion
from instseg_d2.testing import write_tiny_coco


@pytest.fixture
def tiny(tmp_path, name):
    """Name of a registered set of three images with a green and a red rectangle each, and an image without."""
    json_file, images = write_tiny_coco(tmp_path / "tiny")
    register_coco(name, json_file, images)
    return name


@pytest.fixture
def records(tiny):
    return get_detection_dataset_dicts(tiny, filter_empty=False)


def mapper(sources, paste=None, **options):
    settings = {"probability": 1, "coverage": (0.3, 0.6), **(paste or {})}
    return OcclusionPasteMapper(
        paste=PasteOcclusion(**settings), sources=sources, **{"is_train": True, "augmentations": [], **options}
    )


def same_sample(first, second):
    assert first.keys() == second.keys()
    assert torch.equal(first["image"], second["image"])
    for field, value in first.get("instances").get_fields().items():
        other = second["instances"].get(field)
        assert torch.equal(getattr(value, "tensor", value), getattr(other, "tensor", other)), field


def test_mapper_pastes_and_makes_occluders(records):
    before = copy.deepcopy(records)
    paste = mapper(records, extra_fields=["gt_occluders"], num_classes=3)
    np.random.seed(0)
    added = hidden = visible = 0
    for record in records[:3] * 3:
        sample = paste(record)
        instances = sample["instances"]
        masks, boxes = instances.gt_masks.tensor, instances.gt_boxes.tensor
        assert instances.gt_masks.tensor.sum(dim=0).max() == 1
        assert torch.equal(instances.gt_masks.get_bounding_boxes().tensor, boxes)
        assert torch.equal(instances.gt_occluders.tensor, occluder_masks(masks, boxes))
        assert sample.keys() == {*record, "image", "instances"} - {"annotations"}
        changed = (sample["image"] != InstanceMapper(is_train=True, augmentations=[])(record)["image"]).any(dim=0)
        assert not (changed & ~masks.any(dim=0)).any()
        # A green one over a green one is not seen.
        visible += bool(changed.any())
        added += len(instances) - 2
        hidden += int(instances.gt_occluders.tensor.any(dim=(1, 2)).sum())
    assert added >= 9
    assert hidden >= 9
    assert visible >= 4
    assert records == before


@pytest.mark.parametrize("extra_fields", [[], ["gt_occluders"]])
def test_mapper_leaves_images_without_annotations(records, extra_fields):
    paste = mapper(records, extra_fields=extra_fields)
    usual = InstanceMapper(is_train=True, augmentations=[], extra_fields=extra_fields)
    same_sample(paste(records[3]), usual(records[3]))
    bare = {key: value for key, value in records[0].items() if key != "annotations"}
    assert torch.equal(paste(bare)["image"], usual(bare)["image"])


def test_mapper_with_probability_zero_is_the_plain_one(records):
    paste = mapper(records, {"probability": 0}, image_format="RGB")
    for record in records:
        same_sample(paste(record), InstanceMapper(is_train=True, augmentations=[], image_format="RGB")(record))


def test_mapper_pastes_nothing_in_tests(records):
    sample = mapper(records, is_train=False)(records[0])
    assert "instances" not in sample
    assert torch.equal(sample["image"], InstanceMapper(is_train=False, augmentations=[])(records[0])["image"])


def test_mapper_keeps_the_order_of_channels(records):
    samples = []
    for image_format in ("BGR", "RGB"):
        np.random.seed(3)
        samples.append(mapper(records, image_format=image_format)(records[0])["image"])
    assert torch.equal(samples[0], samples[1].flip(0))


def test_mapper_drops_what_shows_the_masks_before(records):
    record = {**records[0], "sem_seg_file_name": "a.png", "note": 1}
    del record["height"], record["width"]
    np.random.seed(0)
    pasted = mapper(records)(record)
    assert "sem_seg_file_name" not in pasted
    assert (pasted["note"], pasted["height"], pasted["width"]) == (1, 64, 96)
    assert mapper(records, {"probability": 0})(record)["sem_seg_file_name"] == "a.png"


def test_workers_paste_differently_and_the_seed_decides(records):
    def batches(seed):
        torch.manual_seed(seed)
        loader = build_detection_train_loader(
            records[:1] * 8,
            mapper=mapper(records),
            sampler=TrainingSampler(8, shuffle=False, seed=0),
            total_batch_size=2,
            num_workers=2,
        )
        rows = iter(loader)
        return [torch.stack([sample["image"] for sample in next(rows)]) for _ in range(2)]

    first, second = batches(0)
    assert (first != second).any()
    assert all(map(torch.equal, (first, second), batches(0)))


def test_images_that_cannot_be_read_are_named(records, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    bad = {**records[0], "file_name": str(broken), "image_id": 77}
    with pytest.raises(SampleError, match=r"cannot cut annotation \d out of image .*broken.png \(id 77\).*restore"):
        mapper([bad])(records[0])
    with pytest.raises(SampleError, match=r"cannot paste into image .*broken.png \(id 77\).*restore"):
        mapper(records)(bad)
    odd = {**records[0], "annotations": [{**records[0]["annotations"][0], "segmentation": {"size": [1, 1]}}]}
    with pytest.raises(SampleError, match=r"1.png \(id 1\)"):
        mapper(records)(odd)


def test_hidden_masks_are_never_pasted(tiny):
    sources = get_supervised_dataset_dicts(tiny, supervision=PartialSupervision(seen=["green"]), filter_empty=False)
    paste = mapper(sources, {"number": (1, 3)}, extra_fields=["gt_occluders"])
    np.random.seed(1)
    pasted = 0
    for record in sources[:3] * 4:
        instances = paste(record)["instances"]
        red = instances[instances.gt_classes == 1]
        box = next(one["bbox"] for one in record["annotations"] if one["category_id"] == 1)
        assert len(red) == 1
        assert red.gt_boxes.tensor[0].tolist() == [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        assert instances.gt_has_mask.tolist() == (instances.gt_classes == 0).tolist()
        pasted += len(instances) - 2
    assert pasted >= 12
    with pytest.raises(DatasetError, match="no instance with a mask"):
        mapper(get_supervised_dataset_dicts(tiny, supervision=PartialSupervision(seen=["unused"])))


@pytest.mark.parametrize("options", [{"use_instance_mask": False}, {"instance_mask_format": "polygon"}])
def test_mapper_needs_bitmasks(records, options):
    with pytest.raises(ValueError, match="pasting needs use_instance_mask=True"):
        mapper(records, **options)


def test_mapper_from_a_config(tiny):
    train = LazyCall(build_detection_train_loader)(
        dataset=LazyCall(get_detection_dataset_dicts)(names=tiny),
        mapper=LazyCall(InstanceMapper)(is_train=True, augmentations=[]),
        total_batch_size=2,
        num_workers=0,
    )
    train.mapper.update(
        _target_=OcclusionPasteMapper, paste=LazyCall(PasteOcclusion)(probability=1), sources="${..dataset}"
    )
    loader = instantiate(train)
    assert max(len(sample["instances"]) for sample in next(iter(loader))) >= 3
