"""Supervision by boxes: its losses by hand, warm-up, valid colors; no bit of any mask reaches a loss."""

import copy
import json
import math
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import EventStorage

from instseg_d2.data import BoxSupervision, FullSupervision, InstanceMapper, get_supervised_dataset_dicts, register_coco
from instseg_d2.layers.box_mask_losses import projection_loss
from instseg_d2.modeling.meta_arch.condinst.boxinst import BoxInstLoss
from instseg_d2.modeling.meta_arch.condinst.losses import MaskStep
from instseg_d2.testing import fake_batch, fake_instances, tiny_condinst, tiny_condinst_config, write_tiny_coco


def mask_step(pictures, boxes, gt_inds, logits, padded=(32, 32), heights=None):
    """One step of uint8 pictures (3, h, w) with filled boxes as objects."""
    sizes = [tuple(picture.shape[1:]) for picture in pictures]
    return MaskStep(
        inputs=[
            {"image": picture, "height": height}
            for picture, height in zip(pictures, heights or [size[0] for size in sizes], strict=True)
        ],
        images=ImageList(torch.zeros(len(pictures), 3, *padded), sizes),
        truth=[fake_instances(*size, entry) for size, entry in zip(sizes, boxes, strict=True)],
        positives=[
            Instances(size, gt_inds=torch.tensor(entry, dtype=torch.int64))
            for size, entry in zip(sizes, gt_inds, strict=True)
        ],
        mask_features=torch.zeros(0),
        logits=logits,
    )


def plain(height=32, width=32, value=90):
    return torch.full((3, height, width), value, dtype=torch.uint8)


def settled(**settings):
    return BoxInstLoss(warmup_iters=0, bottom_pixels_removed=0, **settings)


def test_losses_by_hand():
    """All pixels of one color: every neighbor counts. At probability 0.8, P(same) = 0.68 in the whole box."""
    logits = torch.full((2, 8, 8), math.log(4), requires_grad=True)
    losses = settled()(mask_step([plain()], [[[0, 0, 16, 32]]], [[0, 0]], logits))
    # Maxima 0.8 everywhere; columns 0 to 3 are the box's: 4 of 8, and all 8 rows.
    columns, rows = 1 - 2 * 3.2 / (8 * 0.64 + 4), 1 - 2 * 6.4 / (8 * 0.64 + 8)
    assert losses["loss_prj"].item() == pytest.approx(columns + rows, rel=1e-5)
    assert losses["loss_pairwise"].item() == pytest.approx(-math.log(0.68), rel=1e-5)
    sum(losses.values()).backward()
    assert logits.grad.isfinite().all()


def test_weights_of_the_losses():
    logits = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    step = mask_step([plain()], [[[3, 3, 20, 20]]], [[0]], logits)
    plainly, weighted = settled()(step), settled(projection_weight=2.0, pairwise_weight=0.5)(step)
    assert weighted["loss_prj"].item() == pytest.approx(2 * plainly["loss_prj"].item())
    assert weighted["loss_pairwise"].item() == pytest.approx(plainly["loss_pairwise"].item() / 2)


def test_pairs_of_different_color_do_not_count():
    picture = plain()
    picture[:, :, 16:] = 250
    logits = torch.full((1, 8, 8), 4.0)
    logits[..., 4:] = -4.0
    step = mask_step([picture], [[[0, 0, 32, 32]]], [[0]], logits)
    assert settled()(step)["loss_pairwise"].item() == pytest.approx(-math.log(1 - 2 * 0.01799 * 0.98201), rel=1e-3)
    assert settled()(mask_step([plain()], [[[0, 0, 32, 32]]], [[0]], logits))["loss_pairwise"].item() > 0.5


def test_color_threshold_cuts_between_similar_colors():
    """Gray 128 and 134 differ by 2.26 in lightness: similarity 0.323, above 0.3 and below 0.4."""
    picture = plain(value=128)
    picture[:, :, 16:] = 134
    step = mask_step([picture], [[[0, 0, 32, 32]]], [[0]], torch.zeros(1, 8, 8))
    similarity = BoxInstLoss(bottom_pixels_removed=0).color_similarity(step)
    assert similarity.shape == (1, 8, 8, 8)
    assert similarity[0, 4, 0, 2].item() == pytest.approx(0.323, abs=0.02)
    assert similarity[0, 4, 0, 4].item() == 1


def test_channels_are_taken_as_they_come():
    """To the eye dark blue is farther from black than dark red is."""
    picture = plain(value=0)
    picture[0, :, 16:] = 40
    distances = {}
    for input_format, pixels in (("BGR", picture), ("RGB", picture), ("RGB, swapped", picture.flip(0))):
        step = mask_step([pixels], [[[0, 0, 32, 32]]], [[0]], torch.zeros(1, 8, 8))
        loss = BoxInstLoss(input_format=input_format[:3], bottom_pixels_removed=0)
        distances[input_format] = -2 * math.log(loss.color_similarity(step)[0, 4, 0, 2].item())
    assert distances["BGR"] == distances["RGB, swapped"]
    assert distances["BGR"] > 1.2 * distances["RGB"]


def test_colors_are_rounded_down_to_whole_numbers():
    """Means of 100.94 and 101.0 are one step of gray apart, not 0.06."""
    picture = plain(value=101)
    picture[:, 0, 0] = 100
    step = mask_step([picture], [[[0, 0, 32, 32]]], [[0]], torch.zeros(1, 8, 8))
    similarity = BoxInstLoss(bottom_pixels_removed=0).color_similarity(step)[0, 4, 0, 0]
    assert -2 * math.log(similarity.item()) == pytest.approx(0.4, abs=0.1)


def test_padding_and_the_strip_at_the_bottom_are_not_valid():
    """28 x 22 px of a 32 x 32 batch, originally 56 px high: 10 px there are 5 here. Rows 2..22 and columns 2..18."""
    step = mask_step([plain(28, 22)], [[[0, 0, 22, 28]]], [[0]], torch.zeros(1, 8, 8), heights=[56])
    similarity = BoxInstLoss().color_similarity(step)[0]
    below, right = similarity[6], similarity[4]
    assert below[:, 0].nonzero().flatten().tolist() == [0, 1, 2, 3]  # neighbors up to row 5, at 22 px
    assert right[0].nonzero().flatten().tolist() == [0, 1, 2]  # neighbors up to column 4, at 18 px
    everything = BoxInstLoss(bottom_pixels_removed=0).color_similarity(step)[0]
    assert everything[6][:, 0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    nothing = BoxInstLoss(bottom_pixels_removed=100).color_similarity(step)[0]
    assert nothing.sum() == 0


def test_warm_up_grows_and_goes_on_after_a_resume():
    step = mask_step([plain()], [[[0, 0, 32, 32]]], [[0]], torch.zeros(1, 8, 8))
    loss = BoxInstLoss(warmup_iters=4, bottom_pixels_removed=0)
    factors = [loss(step)["loss_pairwise"].item() / math.log(2) for _ in range(2)]
    assert factors == pytest.approx([0.25, 0.5])
    again = BoxInstLoss(warmup_iters=4, bottom_pixels_removed=0)
    again.load_state_dict(loss.state_dict())
    factors = [again(step)["loss_pairwise"].item() / math.log(2) for _ in range(3)]
    assert factors == pytest.approx([0.75, 1, 1])
    assert again.state_dict()["iterations"].item() == 5


def test_steps_without_positives_count_too_and_keep_the_graph():
    logits = torch.zeros(0, 8, 8, requires_grad=True)
    loss = BoxInstLoss()
    losses = loss(mask_step([plain()], [[]], [[]], logits))
    assert {name: value.item() for name, value in losses.items()} == {"loss_prj": 0, "loss_pairwise": 0}
    sum(losses.values()).backward()
    assert loss.iterations.item() == 1


@pytest.mark.parametrize(
    "box",
    [[-40, -40, 9, 9], [20, 20, 90, 90], [6.6, 3, 7.4, 30], [40, 40, 60, 60]],
    ids=["beyond the corner", "beyond the far corner", "thinner than a cell", "outside"],
)
def test_odd_boxes_have_finite_losses_and_gradients(box):
    logits = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    step = mask_step([plain()], [[[0, 0, 8, 8]]], [[0]], logits)
    step.truth[0].gt_boxes.tensor[0] = torch.tensor(box, dtype=torch.float32)
    losses = settled()(step)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert logits.grad.isfinite().all()
    assert (logits.grad.abs().sum() > 0) == (box[0] < 32)


def test_thin_boxes_learn_the_column_nearest_to_them():
    logits = torch.full((1, 8, 8), -3.0)
    logits[0, :, 1] = 3.0
    step = mask_step([plain()], [[[0, 0, 8, 8]]], [[0]], logits)
    step.truth[0].gt_boxes.tensor[0] = torch.tensor([6.6, 0, 7.4, 32])
    regions = BoxInstLoss().object_maps(step.truth[0], (8, 8), 4)
    assert projection_loss(logits.sigmoid(), regions).item() < 0.05


def test_areas_are_those_of_the_boxes():
    truth = fake_instances(32, 32, [[0, 0, 10, 5], [3, 3, 6, 6]])
    truth.remove("gt_masks")
    assert BoxInstLoss().object_areas(truth).tolist() == [50, 9]


@pytest.mark.parametrize("settings", [{"input_format": "L"}, {"color_threshold": 0.0}])
def test_mistakes(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        BoxInstLoss(**settings)


def redraw(content):
    """Other masks for the same boxes: triangles in place of rectangles."""
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation.update(segmentation=[[x, y, x + w, y, x, y + h]], area=w * h / 2)


def remove(content):
    for annotation in content["annotations"]:
        del annotation["segmentation"]


@pytest.fixture
def trained(tmp_path):
    """Trains three steps on a changed copy of the tiny data set; gives all losses and weights, bit for bit."""
    json_file, images = write_tiny_coco(tmp_path / "tiny")
    content = json.loads(json_file.read_text())
    names = []

    def train(change, supervision, *, crop, center_sampling="box", recipe="boxinst"):
        changed = copy.deepcopy(content)
        change(changed)
        names.append(f"{tmp_path.name}_{len(names)}")
        path = json_file.with_name(f"{names[-1]}.json")
        path.write_text(json.dumps(changed))
        register_coco(names[-1], path, images)
        config = tiny_condinst_config(2, recipe=recipe)
        config.detector.center_sampling = center_sampling
        torch.manual_seed(0)
        model = instantiate(config)
        np.random.seed(0)
        augmentations = [T.RandomFlip(), *([T.RandomCrop("relative", (0.8, 0.8))] if crop else [])]
        mapper = InstanceMapper(is_train=True, augmentations=augmentations, recompute_boxes=crop)
        return run(model, loader_of(supervision, names[-1], mapper))

    yield train
    for one in names:
        DatasetCatalog.remove(one)
        MetadataCatalog.remove(one)


def loader_of(supervision, name, mapper):
    records = get_supervised_dataset_dicts(name, supervision=supervision)
    return build_detection_train_loader(
        dataset=records,
        mapper=mapper,
        sampler=TrainingSampler(len(records), shuffle=False),
        total_batch_size=2,
        aspect_ratio_grouping=False,
        num_workers=0,
    )


def run(model, loader, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    history = []
    with EventStorage():
        for batch in islice(loader, steps):
            losses = model(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            history.append({key: value.item() for key, value in losses.items()})
    return history, torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def _settled_jit():
    """The compiled focal loss rounds otherwise in its first calls, before it is specialized."""
    model = tiny_condinst(2, recipe="boxinst")
    for _ in range(3):
        with EventStorage():
            sum(model(fake_batch(num_classes=2)).values()).backward()


@pytest.mark.usefixtures("_settled_jit")
@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("center_sampling", ["box", "mass"])
def test_no_bit_of_a_mask_reaches_a_loss_or_a_weight(trained, crop, center_sampling):
    """With cropping, boxes recomputed from masks and centers of mass, all of which look at masks where they may."""
    options = {"crop": crop, "center_sampling": center_sampling}
    runs = [trained(change, BoxSupervision(), **options) for change in (lambda content: None, redraw, remove)]
    assert runs[0][0][0]["loss_prj"] > 0
    for history, weights in runs[1:]:
        assert history == runs[0][0]
        assert torch.equal(weights, runs[0][1])


def test_masks_that_may_be_seen_do_reach_the_loss(trained):
    options = {"crop": False, "recipe": "condinst"}
    runs = [trained(change, FullSupervision(), **options)[0] for change in (lambda content: None, redraw)]
    assert runs[0][0]["loss_mask"] != runs[1][0]["loss_mask"]
