import copy
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage

from instseg_d2.data import (
    BoxSupervision,
    DatasetError,
    FewShot,
    FullSupervision,
    InstanceMapper,
    OnlyCategories,
    PartialSupervision,
    get_supervised_dataset_dicts,
    register_coco,
)
from instseg_d2.modeling.mask_heads.mask_rcnn import MaskRCNNHead
from instseg_d2.testing import tiny_mask_rcnn_config, write_tiny_coco

CLASSES = ["green", "red", "unused"]
KEYS = ["area", "depth", "covered", "instance_id", "amodal_segmentation", "visible_segmentation"]
KEYS += ["bg_object_segmentation", "occluders", "some_other_mask"]
FIELDS = ["gt_has_mask", "gt_occluders", "gt_amodal_masks", "gt_ids"]
KEPT = {"id", "instance_id", "bbox", "bbox_mode", "category_id", "iscrowd"}


def rectangle(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture
def tiny(tmp_path, name):
    """A json of three images with a green and a red object each whose boxes overlap, and an empty image; a function
    that registers it after a change, under a new name each time, and gives the name."""
    json_file, images = write_tiny_coco(tmp_path / "tiny")
    content = json.loads(json_file.read_text())
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        x -= 16 * (annotation["category_id"] == 2)
        annotation["bbox"] = [x, y, w, h]
        annotation.update(
            segmentation=rectangle(x, y, w, h),
            amodal_segmentation=rectangle(x, y, w, h),
            visible_segmentation=rectangle(x, y, w, h),
            bg_object_segmentation=rectangle(x + 2, y + 2, 9, 9),
            occluders=[annotation["id"] % 2 + 1],
            some_other_mask=rectangle(x, y, w, h),
            depth=annotation["category_id"],
            covered=0.25,
            instance_id=annotation["id"],
        )
    names = []

    def register(change=lambda content: None):
        changed = copy.deepcopy(content)
        change(changed)
        names.append(f"{name}_{len(names)}")
        json_file.with_name(f"{names[-1]}.json").write_text(json.dumps(changed))
        register_coco(names[-1], json_file.with_name(f"{names[-1]}.json"), images, extra_annotation_keys=KEYS)
        return names[-1]

    yield register
    for one in names:
        DatasetCatalog.remove(one)
        MetadataCatalog.remove(one)


def redraw(category):
    """Change all that derives from the masks of one category, in its annotations and in those of its neighbours."""

    def change(content):
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            if annotation["category_id"] == category:
                for key in ("segmentation", "amodal_segmentation", "visible_segmentation", "some_other_mask"):
                    annotation[key] = [[x, y, x + w, y, x, y + h]]
                annotation.update(area=7, depth=5, covered=0.75)
            else:
                annotation.update(bg_object_segmentation=rectangle(x + 1, y, 10, 12), occluders=[])

    return change


def supervised(name, supervision, **options):
    return get_supervised_dataset_dicts(name, supervision=supervision, filter_empty=False, **options)


def stripped(annotation):
    return annotation.get("has_mask") is False and set(annotation) - {"has_mask"} <= KEPT


def test_full(tiny):
    name = tiny()
    assert supervised(name, FullSupervision()) == get_detection_dataset_dicts(name, filter_empty=False)


def test_partial(tiny):
    name = tiny()
    before = get_detection_dataset_dicts(name, filter_empty=False)
    records = supervised(name, PartialSupervision(seen=["green"]))
    assert [record["file_name"] for record in records] == [record["file_name"] for record in before]
    assert all(record["partial_masks"] is True for record in records)
    for record, old in zip(records, before, strict=True):
        for annotation, whole in zip(record["annotations"], old["annotations"], strict=True):
            if whole["category_id"] == 0:
                del whole["bg_object_segmentation"], whole["occluders"]  # of hidden neighbours
                assert annotation == whole
            else:
                assert stripped(annotation)
                assert annotation == {**{key: whole[key] for key in KEPT}, "has_mask": False}


def test_partial_keeps_what_shows_no_hidden_mask(tiny):
    name = tiny()
    records = supervised(name, PartialSupervision(seen=["green", "red"]))
    assert all("bg_object_segmentation" in one for record in records for one in record["annotations"])
    assert not any("has_mask" in one for record in records for one in record["annotations"])


def test_images_without_a_seen_object_stay(tiny):
    name = tiny(lambda content: content["annotations"].pop(0))  # the green one of the first image
    records = get_supervised_dataset_dicts(name, supervision=PartialSupervision(seen=["green"]))
    assert len(records) == 3
    sample = InstanceMapper(is_train=True, augmentations=[])(records[0])["instances"]
    assert sample.gt_has_mask.tolist() == [False]
    assert len(sample.gt_boxes) == 1


def test_box(tiny):
    records = supervised(tiny(), BoxSupervision())
    assert len(records) == 4
    assert all(stripped(one) for record in records for one in record["annotations"])
    sample = InstanceMapper(is_train=True, augmentations=[])(records[0])["instances"]
    assert not sample.gt_has_mask.any()
    assert torch.equal(sample.gt_masks.get_bounding_boxes().tensor, sample.gt_boxes.tensor)


def test_only_categories(tiny):
    name = tiny()
    records = supervised(name, OnlyCategories(categories=["red"]))
    assert [[one["category_id"] for one in record["annotations"]] for record in records] == [[1], [1], [1], []]
    assert not any("bg_object_segmentation" in one for record in records for one in record["annotations"])
    assert not any("partial_masks" in record for record in records)


def test_hidden_before_stays_hidden():
    box = {"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"annotations": [{**box, "has_mask": False, "segmentation": [[0] * 6]}]}
    assert PartialSupervision(seen=["green"])([record], CLASSES)[0]["annotations"] == [{**box, "has_mask": False}]
    with pytest.raises(DatasetError, match=r"green \(0 of 1\)"):
        FewShot(shots=1, categories=["green"])([{**record, "image_id": 1}], CLASSES)


def test_pictures_of_all_masks_go():
    record = {"file_name": "a.png", "sem_seg_file_name": "b.png", "pan_seg_file_name": "c.png", "segments_info": []}
    result = BoxSupervision()([{**record, "annotations": []}], CLASSES)
    assert result == [{"file_name": "a.png", "annotations": [], "partial_masks": True}]


@pytest.mark.parametrize(
    "supervision",
    [
        PartialSupervision(seen=["green"]),
        BoxSupervision(),
        FewShot(shots=1, categories=["green"]),
        OnlyCategories(categories=["green"]),
    ],
)
def test_given_records_stay_as_they_are(tiny, supervision):
    records = get_detection_dataset_dicts(tiny(), filter_empty=False)
    before = copy.deepcopy(records)
    supervision(records, CLASSES)
    assert records == before


def test_few_shot_trains_on_the_shots(tiny):
    records = supervised(tiny(), FewShot(shots=1, categories=["green", "red"]))
    assert 1 <= len(records) <= 2
    samples = [InstanceMapper(is_train=True, augmentations=[])(record)["instances"] for record in records]
    assert sorted(torch.cat([sample.gt_classes for sample in samples]).tolist()) == [0, 1]
    assert not any(sample.has("gt_has_mask") for sample in samples)


def test_what_few_shots_leave_over_is_ignored(tiny):
    """Each image has two green objects, one of which is drawn, and a red one."""

    def add(content):
        for one in content["annotations"][::2]:
            content["annotations"].append({**one, "id": one["id"] + 100, "bbox": [1, 2, 3, 4]})

    (record,) = supervised(tiny(add), FewShot(shots=1, categories=["green"]))
    sample = InstanceMapper(is_train=True, augmentations=[])(record)["instances"]
    green = [one for one in record["annotations"] if one["category_id"] == 0]
    assert (len(sample), len(green), len(record["annotations"])) == (1, 2, 2)
    (left,) = (one["bbox"] for one in green if one.get("ignored"))
    x, y, w, h = left
    assert sample.gt_ignored.tensor.tolist() == [[x, y, x + w, y + h]]
    (record,) = supervised(tiny(add), FewShot(shots=1, categories=["green"], ignore=False))
    assert not InstanceMapper(is_train=True, augmentations=[])(record)["instances"].has("gt_ignored")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PartialSupervision(seen=[]), "use BoxSupervision"),
        (lambda: FewShot(shots=0), "shots=0 must be 1 or more"),
        (lambda: FewShot(shots=1, other_shots=-1), "other_shots=-1 not negative"),
        (lambda: PartialSupervision(seen=["gren"])([], CLASSES), r"no category 'gren' \(near: green\)"),
        (lambda: OnlyCategories(categories="coco_voc")([], CLASSES), "of the split 'coco_voc'"),
        (lambda: FewShot(shots=1, categories=["cup"])([], CLASSES), "no category 'cup'"),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(DatasetError, match=message):
        build()


def test_data_sets_that_cannot_be_supervised(name):
    DatasetCatalog.register(name, lambda: [{"file_name": "a.png"}])
    with pytest.raises(DatasetError, match="thing_classes"):
        supervised(name, BoxSupervision())
    MetadataCatalog.get(name).thing_classes = CLASSES
    with pytest.raises(DatasetError, match=r"image a.png has no 'annotations'"):
        supervised(name, BoxSupervision())


def test_lazy_config_builds_it(tiny):
    name = tiny()
    config = LazyCall(get_supervised_dataset_dicts)(
        names=[name], filter_empty=True, supervision=LazyCall(PartialSupervision)(seen=["red"])
    )
    records = instantiate(config)
    assert len(records) == 3
    assert [[one.get("has_mask", True) for one in record["annotations"]] for record in records] == [[False, True]] * 3


def test_undecodable_hidden_masks(tiny):
    """Files of upstream's registration are not checked; a hidden mask of any content then trains like any other."""
    name = tiny()
    metadata = MetadataCatalog.get(name)

    def records_with(counts):
        content = json.loads(Path(metadata.json_file).read_text())
        for annotation in content["annotations"]:
            if annotation["category_id"] == 2:
                annotation["segmentation"] = {"size": [64, 96], "counts": counts}
        path = Path(metadata.json_file).with_name("unchecked.json")
        path.write_text(json.dumps(content))
        return load_coco_json(str(path), metadata.image_root, name)

    samples = []
    for counts in ("garbage", "\x7f"):
        records = PartialSupervision(seen=["green"])(records_with(counts), CLASSES)
        samples.append(InstanceMapper(is_train=True, augmentations=[])(records[0])["instances"])
    assert samples[0].gt_has_mask.tolist() == [True, False]
    assert_same_instances(*samples)


def assert_same_instances(one, two):
    assert set(one.get_fields()) == set(two.get_fields())
    for name, value in one.get_fields().items():
        first, second = (getattr(x, "tensor", x) for x in (value, two.get(name)))
        assert torch.equal(first, second), name


# Supervision and the categories whose masks it hides. Of the shots, the one green object that is drawn shows its mask.
MODES = {
    "partial": (PartialSupervision(seen=["green"]), 2),
    "partial, the other way": (PartialSupervision(seen=["red"]), 1),
    "box, red": (BoxSupervision(), 2),
    "box, green": (BoxSupervision(), 1),
    "few shots": (FewShot(shots=1, categories=["green"]), 2),
    "base categories": (OnlyCategories(categories=["green"]), 2),
}


@pytest.mark.parametrize("mode", MODES)
def test_hidden_masks_change_no_record_and_no_tensor(tiny, mode):
    supervision, hidden = MODES[mode]
    before, after = (supervised(name, supervision) for name in (tiny(), tiny(redraw(hidden))))
    assert before == after
    mapper = InstanceMapper(
        is_train=True,
        augmentations=[T.RandomFlip(), T.RandomCrop("relative", (0.8, 0.8))],
        extra_fields=FIELDS,
        recompute_boxes=True,
    )
    for one, two in zip(before, after, strict=True):
        np.random.seed(0)
        first = mapper(one)
        np.random.seed(0)
        second = mapper(two)
        assert torch.equal(first["image"], second["image"])
        assert_same_instances(first["instances"], second["instances"])


def training_losses(name, supervision, steps=3):
    """Losses by name, bit for bit, of a small model on the batches of the real loader."""
    records = get_supervised_dataset_dicts(name, supervision=supervision)
    loader = build_detection_train_loader(
        dataset=records,
        mapper=InstanceMapper(is_train=True, augmentations=[T.RandomFlip()], extra_fields=["gt_has_mask"]),
        sampler=TrainingSampler(len(records), shuffle=False),
        total_batch_size=1,
        aspect_ratio_grouping=False,
        num_workers=0,
    )
    config = tiny_mask_rcnn_config(num_classes=3)
    config.roi_heads.mask_head._target_ = MaskRCNNHead
    torch.manual_seed(0)
    np.random.seed(0)
    model = instantiate(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    result = []
    with EventStorage():
        for batch in islice(loader, steps):
            losses = model(batch)
            result.append({key: value.item() for key, value in losses.items()})
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    return result


@pytest.mark.parametrize("mode", ["partial", "box, red"])
def test_hidden_masks_change_no_loss(tiny, mode):
    supervision, hidden = MODES[mode]
    before, after = (training_losses(name, supervision) for name in (tiny(), tiny(redraw(hidden))))
    assert before == after
    assert (before[0]["loss_mask"] > 0) == (mode == "partial")


def test_hidden_masks_of_few_shots_change_no_loss(tiny):
    supervision = FewShot(shots=2, categories=["green"])
    before, after = (training_losses(name, supervision, steps=2) for name in (tiny(), tiny(redraw(2))))
    assert before == after


@pytest.mark.parametrize("supervision", [FullSupervision(), PartialSupervision(seen=["red"])])
def test_visible_masks_change_the_loss(tiny, supervision):
    before, after = (training_losses(name, supervision, steps=1)[0] for name in (tiny(), tiny(redraw(2))))
    assert before["loss_mask"] != after["loss_mask"]
    assert {key for key in before if before[key] != after[key]} == {"loss_mask"}
