"""No bit of a hidden mask reaches a loss or a weight of CondInst with some masks, alone or with a student."""

import json
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from detectron2.utils.events import EventStorage

from instseg_d2.data import InstanceMapper, PartialSupervision, get_supervised_dataset_dicts, register_coco
from instseg_d2.layers.mean_field import DenseCRF
from instseg_d2.modeling.meta_arch.condinst.boxinst import BoxInstLoss
from instseg_d2.modeling.meta_arch.condinst.losses import MaskDiceLoss
from instseg_d2.modeling.meta_arch.condinst.partial import PartialBoxInstLoss
from instseg_d2.testing import (
    add_tiny_student,
    fake_batch,
    tiny_condinst_config,
    train_on_ranks,
    write_tiny_coco,
)

CLASSES = 2
MODELS = {
    "alone": None,
    "interaction": {},
    "soft": {"method": "soft"},
    "crf": {"method": "crf", "crf": L(DenseCRF)(color_sigma=30.0, iterations=2)},
}
LOSSES = {"loss_mask", "loss_prj", "loss_pairwise"}


def build(name="interaction", *, center_sampling="box"):
    """BoxInst with some masks, and a student by these pseudo masks."""
    config, rules = tiny_condinst_config(CLASSES), MODELS[name]
    config.detector.center_sampling = center_sampling
    config.supervision = L(PartialBoxInstLoss)(
        masks=L(MaskDiceLoss)(), boxes=L(BoxInstLoss)(bottom_pixels_removed=0, warmup_iters=0)
    )
    if rules is not None:
        add_tiny_student(config, **rules)
    torch.manual_seed(0)
    return instantiate(config)


def train(model, batches):
    """All losses and weights of some steps, bit for bit."""
    optimizer, history = torch.optim.SGD(model.parameters(), lr=0.01), []
    with EventStorage():
        for batch in batches:
            torch.manual_seed(0)
            losses = model(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            history.append({name: loss.item() for name, loss in losses.items()})
    return history, torch.cat([p.detach().flatten() for p in model.parameters()])


def same(one, other):
    return one[0] == other[0] and torch.equal(one[1], other[1])


@pytest.fixture(scope="module", autouse=True)
def _settled_jit():
    """The compiled focal loss rounds otherwise in its first calls, before it is specialized."""
    train(build(), [hidden_batch()] * 3)


def hidden_batch(flags=((True, False), (False, False))):
    batch = fake_batch(num_classes=CLASSES)
    for item, flag in zip(batch, flags, strict=True):
        item["instances"].gt_has_mask = torch.tensor(flag)
    return batch


def scribble(batch, which):
    """Noise in the place of hidden masks, or of visible ones, in place."""
    noise = torch.Generator().manual_seed(1)
    for item in batch:
        truth = item["instances"]
        masks = truth.gt_masks.tensor
        chosen = truth.gt_has_mask if which == "visible" else ~truth.gt_has_mask
        masks[chosen] = torch.rand(masks[chosen].shape, generator=noise) < 0.5
    return batch


@pytest.mark.parametrize("name", MODELS)
def test_noise_in_hidden_masks_changes_nothing(name):
    """Even if a loader gave the masks away: nothing but the placeholder's box may be looked at."""
    before = train(build(name), [hidden_batch() for _ in range(3)])
    after = train(build(name), [scribble(hidden_batch(), "hidden") for _ in range(3)])
    assert same(before, after)
    assert all(before[0][0][loss] > 0 for loss in LOSSES)
    assert before[0][0].keys() >= (LOSSES if name == "alone" else LOSSES | {"loss_student"})
    other = train(build(name), [scribble(hidden_batch(), "visible") for _ in range(3)])
    changed = {loss for loss, value in before[0][0].items() if other[0][0][loss] != value}
    assert changed == ({"loss_mask"} if name == "alone" else {"loss_mask", "loss_student"})


def triangle(annotation):
    x, y, w, h = annotation["bbox"]
    annotation.update(segmentation=[[x, y, x + w, y, x, y + h]], area=w * h / 2)


def remove(annotation):
    del annotation["segmentation"]


def keep(annotation):
    pass


@pytest.fixture
def loaded(tmp_path):
    """Batches of the tiny data set, whose first class is seen, after a change of all objects of one class."""
    json_file, images = write_tiny_coco(tmp_path / "tiny")
    names = []

    def load(change, category, *, crop=False):
        content = json.loads(json_file.read_text())
        for annotation in content["annotations"]:
            if annotation["category_id"] == category:
                change(annotation)
        names.append(f"{tmp_path.name}_{len(names)}")
        path = json_file.with_name(f"{names[-1]}.json")
        path.write_text(json.dumps(content))
        register_coco(names[-1], path, images)
        records = get_supervised_dataset_dicts(names[-1], supervision=PartialSupervision(seen=["green"]))
        augmentations = [T.RandomFlip(), *([T.RandomCrop("relative", (0.8, 0.8))] if crop else [])]
        np.random.seed(0)
        loader = build_detection_train_loader(
            dataset=records,
            mapper=InstanceMapper(is_train=True, augmentations=augmentations, recompute_boxes=crop),
            sampler=TrainingSampler(len(records), shuffle=False),
            total_batch_size=2,
            aspect_ratio_grouping=False,
            num_workers=0,
        )
        return islice(loader, 3)

    yield load
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("name", ["alone", "interaction"])
@pytest.mark.parametrize("center_sampling", ["box", "mass"])
def test_other_hidden_masks_in_the_file_change_nothing(loaded, name, center_sampling):
    """With cropping, boxes recomputed from masks and centers of mass, all of which look at masks where they may."""
    runs = [
        train(build(name, center_sampling=center_sampling), loaded(change, 2, crop=True))
        for change in (keep, triangle, remove)
    ]
    assert runs[0][0][0]["loss_mask"] > 0
    assert runs[0][0][0]["loss_prj"] > 0
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


@pytest.mark.parametrize("name", ["alone", "interaction"])
def test_other_visible_masks_in_the_file_change_the_losses(loaded, name):
    before, after = (train(build(name), loaded(change, 1))[0][0] for change in (keep, triangle))
    assert before["loss_mask"] != after["loss_mask"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alone", "interaction"])
def test_a_process_whose_masks_are_all_hidden_keeps_in_step(tmp_path, name):
    batches = [hidden_batch([[seen] * 2] * 2) for seen in (True, False)]
    (weights, losses), (other_weights, other_losses) = train_on_ranks(partial(build, name), batches, tmp_path)
    assert torch.equal(weights, other_weights)
    assert weights.isfinite().all()
    assert losses.keys() == other_losses.keys()
    assert losses["loss_mask"] > other_losses["loss_mask"] == 0
    assert other_losses["loss_prj"] > losses["loss_prj"] == 0
    if name != "alone":
        assert min(losses["loss_student"], other_losses["loss_student"]) > 0
