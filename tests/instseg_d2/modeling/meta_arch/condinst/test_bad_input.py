"""Training on boxes with what folders hold: gray and transparent pictures, odd boxes, any number of classes."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from PIL import Image

from instseg_d2.data import BoxSupervision, InstanceMapper, get_supervised_dataset_dicts, register_coco
from instseg_d2.testing import fake_batch, tiny_condinst, write_tiny_coco

NAME = "test_boxes_of_odd_files"
BOTH = pytest.mark.parametrize("recipe", ["boxinst", "sim"])


def read(folder, change=lambda content, images: None):
    """Training items of the tiny set, with boxes alone, after a change of its json and its files."""
    json_file, images = write_tiny_coco(folder)
    content = json.loads(json_file.read_text())
    change(content, images)
    json_file.write_text(json.dumps(content))
    register_coco(NAME, json_file, images)
    records = get_supervised_dataset_dicts(NAME, supervision=BoxSupervision())
    mapper = InstanceMapper(is_train=True, augmentations=[], use_instance_mask=False, num_classes=3)
    return [mapper(record) for record in records]


@pytest.fixture(autouse=True)
def _forget():
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog.list():
            catalog.remove(NAME)


def build(num_classes, recipe):
    model = tiny_condinst(num_classes, recipe=recipe)
    # SIM's pseudo masks and pasted objects from the first step on.
    model.warmup_iters = 0
    return model


def train(model, batch, steps=2):
    """Losses of the last of some steps, all of them finite, as the gradients."""
    for _ in range(steps):
        with EventStorage():
            losses = model(batch)
        sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values()), losses
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    return losses


def predict(model, batch):
    with torch.no_grad():
        return [x["instances"] for x in model.eval()(batch)]


def as_gray(path):
    Image.open(path).convert("L").save(path)


def as_palette(path):
    Image.open(path).convert("P").save(path)


def with_alpha(path):
    image = cv2.imread(str(path))
    cv2.imwrite(str(path), np.dstack([image, np.full(image.shape[:2], 128, dtype=np.uint8)]))


def in_16_bits(path):
    """Gray, as of microscopes and X-rays."""
    Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16)).save(path)


@pytest.mark.parametrize("rewrite", [as_gray, as_palette, with_alpha, in_16_bits])
def test_files_of_any_mode_train(rewrite, tmp_path):
    def change(content, images):
        for path in images.iterdir():
            rewrite(path)

    batch = read(tmp_path, change)
    assert all(item["image"].shape == (3, 64, 96) for item in batch)
    losses = train(tiny_condinst(3, recipe="boxinst"), batch)
    assert losses["loss_prj"].item() > 0


def test_transparency_changes_no_color(tmp_path):
    def change(content, images):
        for path in images.iterdir():
            with_alpha(path)

    for item, plain in zip(read(tmp_path / "alpha", change), read_again(tmp_path), strict=True):
        assert torch.equal(item["image"], plain["image"])


def read_again(folder):
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove(NAME)
    return read(folder / "plain")


ODD = {
    "sticks out": [[70.0, 40.0, 60.0, 50.0], [-20.0, -10.0, 40.0, 30.0]],
    "outside": [[200.0, 10.0, 30.0, 30.0], [10.0, -90.0, 30.0, 30.0]],
    # Each around a location of the finest level, at 2 + 4 n pixels: it would train no mask otherwise.
    "thinner than a cell": [[9.5, 4.0, 1.0, 50.0], [4.0, 29.7, 80.0, 0.75]],
    "smaller than a pixel": [[29.8, 29.8, 0.4, 0.4], [9.8, 9.8, 0.4, 0.4]],
    "the whole image": [[0.0, 0.0, 96.0, 64.0], [0.0, 0.0, 96.0, 64.0]],
}


@BOTH
@pytest.mark.parametrize("boxes", ODD.values(), ids=ODD)
def test_odd_boxes_train(recipe, boxes, tmp_path):
    def change(content, images):
        for at, annotation in enumerate(content["annotations"]):
            annotation["bbox"] = boxes[at % 2]

    batch = read(tmp_path, change)
    height, width = batch[0]["image"].shape[1:]
    for item in batch:
        tensor = item["instances"].gt_boxes.tensor
        assert (tensor >= 0).all()
        assert (tensor[:, 2:] <= torch.tensor([width, height])).all()
    model = build(3, recipe)
    losses = train(model, batch)
    objects = sum(len(item["instances"]) for item in batch)
    assert (objects == 0) == (boxes is ODD["outside"])
    assert (losses["loss_prj"].item() > 0) == (objects > 0)
    assert len(predict(model, batch)) == len(batch)


@BOTH
@pytest.mark.parametrize("num_classes", [1, 81])
def test_any_number_of_classes(recipe, num_classes):
    batch = fake_batch(num_classes=num_classes)
    model = build(num_classes, recipe)
    train(model, batch)
    with torch.no_grad():
        model.detector.head.cls_score.bias.fill_(0.0)
        model.detector.head.bbox_pred.bias.fill_(2.0)
    found = predict(model, batch)
    assert all(len(x) > 0 for x in found)
    assert all(((x.pred_classes >= 0) & (x.pred_classes < num_classes)).all() for x in found)
