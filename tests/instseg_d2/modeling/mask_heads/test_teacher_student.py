"""Teacher-Student heads: who learns what from whom, what pseudo masks may not cover, and no hidden mask in any loss."""

import copy
import json

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from instseg_d2.data import (
    DatasetError,
    InstanceMapper,
    PartialSupervision,
    get_supervised_dataset_dicts,
    register_coco,
)
from instseg_d2.data.shared_map import SharedMap
from instseg_d2.layers.mean_field import DenseCRF
from instseg_d2.modeling.mask_heads.bcnet import BCNetHead
from instseg_d2.modeling.mask_heads.cpmask import CPMaskHead
from instseg_d2.modeling.mask_heads.mask_rcnn import MaskRCNNHead
from instseg_d2.modeling.mask_heads.teacher_student import (
    FineMaskRCNNHead,
    SelfTaughtHead,
    TeacherStudentHead,
    inside_boxes,
)
from instseg_d2.modeling.pseudo_masks import PseudoMasks
from instseg_d2.modeling.roi_heads import CAMROIHeads
from instseg_d2.testing import (
    TINY_CHANNELS,
    fake_batch,
    fake_instances,
    put_mask_head,
    tiny_fcos_mask_config,
    tiny_mask_rcnn_config,
    train_on_ranks,
    write_tiny_coco,
)

CLASSES, SIDE = 3, 14
SHAPE = ShapeSpec(channels=4, height=7, width=7)
# Of the first image the second object is hidden, of the second image both.
SEEN = [[True, False], [False, False]]


def plain(num_classes=1, kind=MaskRCNNHead, convs=1, **settings):
    head = kind(input_shape=SHAPE, num_classes=num_classes, conv_dims=[6] * (convs + 1), **settings)
    torch.nn.init.normal_(head.predictor.weight)
    return head


def pair(teacher=None, student=None, start=0, all_channels=False, keep_aux=False, **rules):
    torch.manual_seed(0)
    return TeacherStudentHead(
        teacher=teacher or plain(),
        student=student or plain(CLASSES),
        pseudo_masks=PseudoMasks(**rules),
        pseudo_start=start,
        all_channels=all_channels,
        keep_aux=keep_aux,
    )


def regions(flags=SEEN):
    """Two objects an image that overlap, as three regions each; the last one is no box of an object."""
    result = []
    for index, image_flags in enumerate(flags):
        truth = fake_instances(64, 64, [[4, 8, 36, 40], [20, 8, 60, 48]], [index, 2])
        truth.gt_has_mask = torch.tensor(image_flags)
        seen = truth.gt_masks.tensor[truth.gt_has_mask].any(dim=0, keepdim=True)
        truth.gt_seen = SharedMap(seen, 2)
        truth.gt_image = SharedMap(torch.arange(3 * 64 * 64).view(3, 64, 64).remainder(256).byte(), 2)
        x = truth[torch.tensor([0, 1, 1])]
        x.proposal_boxes = Boxes(torch.tensor([[4.0, 8, 36, 40], [20, 8, 60, 48], [12, 0, 56, 52]]))
        result.append(x)
    return result


def features(count=6):
    torch.manual_seed(1)
    return torch.randn(count, 4, 7, 7)


def losses_of(head, instances, x=None, iteration=0):
    with EventStorage(iteration) as storage:
        losses = head(features(sum(map(len, instances))) if x is None else x, instances)
    return losses, storage


def targets_of(head, instances, iteration=0):
    """What the student learns: the pseudo masks and true masks that reach its loss."""
    seen = {}
    original = head.student.map_losses

    def spy(maps, targets, chosen):
        seen["targets"] = targets
        return original(maps, targets, chosen)

    head.student.map_losses = spy
    losses_of(head, instances, iteration=iteration)
    return seen["targets"]


def crops(instances, size=SIDE):
    return torch.cat([x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, size) for x in instances]).float()


def test_cells_of_a_region_in_a_box():
    regions_, boxes = torch.tensor([[0.0, 0, 8, 4], [2, 2, 6, 6]]), torch.tensor([[2.0, 0, 6, 1], [0, 0, 9, 4]])
    inside = inside_boxes(regions_, boxes, 4)
    # Middles at 1, 3, 5, 7 px and 0.5, 1.5, ... px; then at 2.5 to 5.5 both ways.
    assert inside[0].tolist() == [[False, True, True, False]] + [[False] * 4] * 3
    assert inside[1].tolist() == [[True] * 4] * 2 + [[False] * 4] * 2


def test_seen_regions_learn_their_masks_and_hidden_ones_the_teachers():
    head, instances = pair(without_seen=False, inside_box=False), regions()
    targets = targets_of(head, instances)
    _, logits = head.layers(features(), instances)
    classes = torch.cat([x.gt_classes for x in instances])
    student = logits["masks"][torch.arange(6), classes].sigmoid()
    expected = ((logits["teacher_masks"][:, 0].sigmoid() + student) / 2 >= 0.5).float()
    assert 0.2 < expected.mean() < 0.8
    expected[0] = crops(instances)[0]
    assert torch.equal(targets, expected)


def test_pseudo_masks_keep_out_of_seen_masks_and_of_the_surroundings():
    head, instances = pair(method="threshold"), regions()
    head.teacher.predictor.bias.data.fill_(100.0)  # everything is foreground
    targets = targets_of(head, instances)
    first, second = instances
    union = first.gt_seen.crop_and_resize(first.proposal_boxes.tensor, SIDE)[:, 0] >= 0.5
    inside = inside_boxes(first.proposal_boxes.tensor, first.gt_boxes.tensor, SIDE)
    assert torch.equal(targets[1:3].bool(), (~union & inside)[1:])
    assert 0.3 < targets[1:3].mean() < 0.8
    # In the second image no mask is seen: of the matched region all that lies in the box.
    assert targets[3:5].all()
    assert torch.equal(targets[5].bool(), inside_boxes(second.proposal_boxes.tensor, second.gt_boxes.tensor, SIDE)[2])


def test_losses_are_means_over_seen_regions_and_over_all():
    head, instances = pair(), regions()
    targets = targets_of(head, instances)
    losses, storage = losses_of(head, instances)
    _, logits = head.layers(features(), instances)
    classes = torch.cat([x.gt_classes for x in instances])
    bce = F.binary_cross_entropy_with_logits
    assert set(losses) == set(head.loss_names) == {"loss_mask", "loss_student"}
    torch.testing.assert_close(losses["loss_mask"], bce(logits["teacher_masks"][:1, 0], crops(instances)[:1]))
    student = logits["masks"][torch.arange(6), classes]
    torch.testing.assert_close(losses["loss_student"], bce(student, targets))
    assert {"mask_rcnn/accuracy", "student/mask_rcnn/accuracy"} <= set(storage.latest())

    head.all_channels = True
    dense = torch.zeros_like(logits["masks"])
    dense[torch.arange(6), classes] = targets
    torch.testing.assert_close(losses_of(head, instances)[0]["loss_student"], bce(logits["masks"], dense))


def test_the_student_teaches_nobody():
    head, x = pair(), features().requires_grad_()
    losses, _ = losses_of(head, regions(), x)
    losses["loss_student"].backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in head.teacher.parameters())
    assert all(p.grad.abs().sum() > 0 for p in head.student.parameters())
    assert x.grad.abs().sum() > 0
    head.zero_grad()
    losses["loss_mask"].backward()
    assert all(p.grad.abs().sum() > 0 for p in head.teacher.parameters())
    assert all(p.grad is None or not p.grad.any() for p in head.student.parameters())


def test_of_hidden_regions_the_teacher_learns_nothing():
    losses, _ = losses_of(pair(), regions([[False, False]] * 2))
    assert losses["loss_mask"] == 0
    assert losses["loss_student"] > 0


def test_kernels_of_unseen_classes_learn_with_the_teacher_alone():
    student = plain(CLASSES)
    losses_of(student, regions())[0]["loss_mask"].backward()
    touched = student.predictor.weight.grad.flatten(1).any(dim=1)
    assert touched.tolist() == [True, False, False]
    head = pair()
    losses_of(head, regions())[0]["loss_student"].backward()
    assert head.student.predictor.weight.grad.flatten(1).any(dim=1).all()


def test_warm_up_leaves_hidden_regions_out():
    head, instances = pair(start=5), regions()
    early, _ = losses_of(head, instances, iteration=4)
    _, logits = head.layers(features(), instances)
    expected = F.binary_cross_entropy_with_logits(logits["masks"][:1, 0], crops(instances)[:1])
    torch.testing.assert_close(early["loss_student"], expected)
    hidden = regions([[False, False]] * 2)
    assert losses_of(head, hidden, iteration=4)[0]["loss_student"] == 0
    assert losses_of(head, hidden, iteration=5)[0]["loss_student"] > 0


def test_without_hidden_masks_it_is_two_heads_trained_on_all():
    head, instances = pair(), regions([[True, True]] * 2)
    for x in instances:
        for name in ("gt_has_mask", "gt_seen", "gt_image"):
            x.remove(name)
    assert torch.equal(targets_of(head, instances), crops(instances))


def test_pseudo_masks_of_a_finer_teacher_are_averaged():
    fine = plain(kind=FineMaskRCNNHead)
    head, instances = pair(teacher=fine, method="soft", without_seen=False, inside_box=False), regions()
    _, logits = head.layers(features(), instances)
    assert logits["teacher_masks"].shape == (6, 1, 28, 28)
    blocks = logits["teacher_masks"].sigmoid().view(6, SIDE, 2, SIDE, 2).mean(dim=(2, 4))
    torch.testing.assert_close(targets_of(head, instances)[1:], blocks[1:])
    expected = F.binary_cross_entropy_with_logits(logits["teacher_masks"][:1, 0], crops(instances, 28)[:1])
    torch.testing.assert_close(losses_of(head, instances)[0]["loss_mask"], expected)


@pytest.mark.parametrize(
    "teacher",
    [
        lambda: plain(convs=12),
        lambda: BCNetHead(input_shape=SHAPE, conv_dim=4, num_convs=2, bilayer=False),
        lambda: CPMaskHead(input_shape=SHAPE, conv_dim=4, num_convs=1, num_boundary_convs=1),
    ],
    ids=["deep", "bcnet", "cpmask"],
)
@pytest.mark.parametrize("flags", [SEEN, [[False, False]] * 2])
def test_any_class_agnostic_head_may_teach(teacher, flags):
    head = pair(teacher=teacher())
    losses, _ = losses_of(head, regions(flags))
    assert set(losses) == {*head.teacher.loss_names, "loss_student"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_crf_refines_by_the_image():
    crf = DenseCRF(color_sigma=30.0)
    head, instances = pair(method="crf", crf=crf, without_seen=False, inside_box=False), regions()
    targets = targets_of(head, instances)
    _, logits = head.layers(features(), instances)
    pictures = torch.cat([x.gt_image.crop_and_resize(x.proposal_boxes.tensor, SIDE) for x in instances])
    expected = crf(logits["teacher_masks"][:, 0].sigmoid(), pictures)
    assert torch.equal(targets[1:], (expected >= 0.5).float()[1:])
    assert not torch.equal(targets[1:], (logits["teacher_masks"][1:, 0] >= 0).float())


@pytest.mark.parametrize("head", [pair(), SelfTaughtHead(head=plain(), pseudo_masks=PseudoMasks())])
def test_no_region_at_all(head):
    losses, _ = losses_of(head, [x[:0] for x in regions()])
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())


def test_inference_has_the_student_alone():
    head, instances = pair().eval(), regions()
    for x in instances:
        x.pred_classes, x.pred_boxes = x.gt_classes, x.proposal_boxes
    head.teacher.register_forward_hook(lambda *_: pytest.fail("the teacher ran"))
    expected = torch.cat([x.pred_masks for x in head.student.eval()(features(), copy.deepcopy(instances))])
    result = head(features(), instances)
    assert torch.equal(torch.cat([x.pred_masks for x in result]), expected)
    assert not result[0].has("pred_teacher_masks")


def test_further_maps_for_pictures():
    head, instances = pair(keep_aux=True, teacher=plain(kind=FineMaskRCNNHead)).eval(), regions()
    for x in instances:
        x.pred_classes = x.gt_classes
    x = head(features(), instances)[0]
    assert x.pred_teacher_masks.shape == (3, 1, 28, 28)
    mean = (F.avg_pool2d(x.pred_teacher_masks, 2) + x.pred_masks) / 2
    assert torch.equal(x.pred_pseudo_masks, (mean >= 0.5).float())


def test_self_taught_head_learns_its_own_masks():
    head, instances = SelfTaughtHead(head=plain(), pseudo_masks=PseudoMasks(inside_box=False)), regions()
    losses, _ = losses_of(head, instances)
    _, logits = head.layers(features(), instances)
    targets = (logits[:, 0] >= 0).float()
    union = torch.cat([x.gt_seen.crop_and_resize(x.proposal_boxes.tensor, SIDE) for x in instances])[:, 0] >= 0.5
    targets[union] = 0
    targets[0] = crops(instances)[0]
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], targets)
    torch.testing.assert_close(losses, {"loss_mask": expected})


@pytest.mark.parametrize("field", ["gt_seen", "gt_image"])
def test_what_the_loader_must_give_is_named(field):
    head, instances = pair(method="crf", crf=DenseCRF()), regions()
    for x in instances:
        x.remove(field)
    with pytest.raises(DatasetError, match=rf"'{field}'.*extra_fields"):
        losses_of(head, instances)


def test_students_with_other_losses_are_refused():
    with pytest.raises(ValueError, match="loss_boundary"):
        pair(student=CPMaskHead(input_shape=SHAPE, num_classes=CLASSES, conv_dim=4))


def node(norm=""):
    shape = L(ShapeSpec)(channels=TINY_CHANNELS, width=14, height=14)
    return L(TeacherStudentHead)(
        teacher=L(MaskRCNNHead)(input_shape=shape, num_classes=1, conv_dims=[16, 16], conv_norm=norm),
        student=L(MaskRCNNHead)(input_shape=shape, num_classes=CLASSES, conv_dims=[16, 16], conv_norm=norm),
        pseudo_masks=L(PseudoMasks)(),
    )


def cpmask_node():
    head = node()
    teacher = head.teacher
    head.teacher = L(CPMaskHead)(input_shape=teacher.input_shape, conv_dim=TINY_CHANNELS, num_convs=1)
    return head


@pytest.mark.parametrize("head", [node, cpmask_node])
def test_behind_fcos(head):
    model = instantiate(put_mask_head(tiny_fcos_mask_config(CLASSES), head()))
    batch = fake_batch(num_classes=CLASSES)
    hide(batch, [[True, False]] * 2)
    with EventStorage():
        losses = model(batch)
    assert {*model.mask_head.teacher.loss_names, "loss_student"} <= set(losses)
    assert losses["loss_mask"] > 0
    assert losses["loss_student"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.mask_head.student.predictor.parameters())
    with torch.no_grad():
        (output, _) = model.eval()(batch)
    assert output["instances"].pred_masks.dtype == torch.bool


def hide(batch, flags):
    for item, flag in zip(batch, flags, strict=True):
        truth = item["instances"]
        truth.gt_has_mask = torch.tensor(flag)
        truth.gt_seen = SharedMap(truth.gt_masks.tensor[truth.gt_has_mask].any(dim=0, keepdim=True), len(truth))
    return batch


def build():
    """OPMask with a student."""
    torch.manual_seed(0)
    model = put_mask_head(tiny_mask_rcnn_config(CLASSES), node("naiveSyncBN_N"))
    model.roi_heads.update(_target_=CAMROIHeads)
    model.roi_heads.box_head.update(conv_dims=[16, 32], fc_dims=[], conv_norm="naiveSyncBN_N")
    return instantiate(model)


@pytest.mark.slow
def test_opmask_with_a_process_whose_masks_are_all_hidden(tmp_path):
    batches = [hide(fake_batch(1, num_classes=CLASSES), [[seen, seen]]) for seen in (True, False)]
    (weights, losses), (other_weights, other_losses) = train_on_ranks(build, batches, tmp_path)
    assert torch.equal(weights, other_weights)
    assert losses.keys() == other_losses.keys()
    assert losses["loss_mask"] > other_losses["loss_mask"] == 0
    assert min(losses["loss_student"], other_losses["loss_student"]) > 0


@pytest.fixture
def loaded(tmp_path):
    """Batches of the tiny data set with one of its classes seen, from files that differ in hidden masks alone."""
    json_file, images = write_tiny_coco(tmp_path / "tiny", images=3)
    names = []

    def load(change):
        content = json.loads(json_file.read_text())
        for annotation in content["annotations"]:
            if annotation["category_id"] == 2:
                change(annotation)
        names.append(f"{tmp_path.name}_{len(names)}")
        path = json_file.with_name(f"{names[-1]}.json")
        path.write_text(json.dumps(content))
        register_coco(names[-1], path, images)
        records = get_supervised_dataset_dicts(names[-1], supervision=PartialSupervision(seen=["green"]))
        mapper = InstanceMapper(is_train=True, augmentations=[], extra_fields=["gt_seen", "gt_image"])
        return [mapper(record) for record in records]

    yield load
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_no_hidden_mask_reaches_a_loss(loaded):
    def triangle(annotation):
        x, y, w, h = annotation["bbox"]
        annotation.update(segmentation=[[x, y, x + w, y, x, y + h]], area=w * h / 2)

    histories = []
    for change in (lambda _: None, triangle):
        batch = loaded(change)
        assert [x["instances"].gt_has_mask.tolist() for x in batch] == [[True, False]] * 2
        for item in batch:
            truth = item["instances"]
            assert torch.equal(truth.gt_seen.tensor, truth.gt_masks.tensor[:1])
            assert truth.gt_image.tensor is item["image"]
        torch.manual_seed(0)
        model = instantiate(put_mask_head(tiny_mask_rcnn_config(CLASSES), node()))
        with EventStorage():
            torch.manual_seed(0)
            losses = model(batch)
        histories.append({name: loss.item() for name, loss in losses.items()})
    assert histories[0] == histories[1]
    assert histories[0]["loss_student"] > 0
