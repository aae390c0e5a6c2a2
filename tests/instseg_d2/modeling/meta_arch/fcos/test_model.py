"""FCOS: equal to detectron2's by default; losses, normalizers and thresholds by hand; nasty input."""

import math
import os
import subprocess
import sys

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from instseg_d2.data.shared_map import SharedBoxes
from instseg_d2.modeling.meta_arch.fcos.model import FCOS, FCOSHead

K = 3
STRIDES = (8, 16, 32)
LOCATIONS = 12 * 16 + 6 * 8 + 3 * 4
SHAPES = [ShapeSpec(channels=8, stride=stride) for stride in STRIDES]
# One object of 40 x 40 px: locations 20, 28, 36 of the finest level lie within 12 px of its center, in x as in y.
BOX = [10, 10, 50, 50]
SIDES = {20: (10, 30), 28: (18, 22), 36: (26, 14)}
CENTERNESS = [math.sqrt(min(SIDES[x]) / max(SIDES[x]) * min(SIDES[y]) / max(SIDES[y])) for y in SIDES for x in SIDES]


class ThreeLevels(Backbone):
    """One strided convolution, and its output pooled once and twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, x):
        x = self.stem(x).relu()
        return {"p5": nn.functional.avg_pool2d(x, 4), "p4": nn.functional.avg_pool2d(x, 2), "p3": x}

    @property
    def size_divisibility(self):
        return 32

    def output_shape(self):
        return dict(zip(("p5", "p4", "p3"), reversed(SHAPES), strict=True))


def build(model_class=FCOS, head_class=FCOSHead, norm="", conv_dims=(8,), head=None, seed=0, **kwargs):
    torch.manual_seed(seed)
    backbone = ThreeLevels()
    head = head_class(input_shape=SHAPES, num_classes=K, conv_dims=list(conv_dims), norm=norm, **(head or {}))
    return model_class(
        backbone=backbone, head=head, num_classes=K, pixel_mean=[100.0] * 3, pixel_std=[50.0] * 3, **kwargs
    )


def truth(boxes, classes=None, size=(96, 128)):
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor(classes if classes is not None else [0] * len(corners), dtype=torch.int64)
    return Instances(size, gt_boxes=Boxes(corners), gt_classes=labels)


def inputs(*truths, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [
        {"image": torch.randint(0, 256, (3, *x.image_size), generator=rng, dtype=torch.uint8), "instances": x}
        for x in truths
    ]


def maps(images, channels, value=0.0, size=(96, 128)):
    return [torch.full((images, channels, size[0] // s, size[1] // s), value) for s in STRIDES]


def flat_predictions():
    """Logits 0 everywhere; every box is one stride to each side of its location, also the gradient's leaves."""
    return [[level.requires_grad_() for level in levels] for levels in (maps(1, K), maps(1, 4, 1.0), maps(1, 1))]


def losses_of(model, predictions, *truths):
    targets = model.assign(model.anchor_generator(maps(1, 8)), truths)
    with EventStorage():
        return model.detection_losses(predictions, targets)


BATCH = (truth([BOX, [30, 20, 110, 90], [0, 0, 20, 14]], [0, 2, 1]), truth([]), truth([[4, 4, 124, 92]], [1]))


@pytest.fixture(scope="module")
def _settled_jit():
    """The compiled focal loss rounds otherwise in its first calls, before it is specialized."""
    model = build(detectron2_fcos.FCOS, detectron2_fcos.FCOSHead)
    for _ in range(2):
        with EventStorage():
            sum(model(inputs(*BATCH)).values()).backward()


@pytest.mark.usefixtures("_settled_jit")
class TestEqualsDetectron2:
    @pytest.mark.parametrize(("norm", "conv_dims"), [("", (8,)), ("GN", (32, 32)), ("BN", (8, 16))])
    def test_weights_losses_and_gradients(self, norm, conv_dims):
        ours = build(norm=norm, conv_dims=conv_dims)
        theirs = build(detectron2_fcos.FCOS, detectron2_fcos.FCOSHead, norm, conv_dims)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        models = (ours, theirs)
        optimizers = [torch.optim.SGD(model.parameters(), 0.05) for model in models]
        for step in range(4):  # the moving average of the normalizer has a memory
            records = []
            for model, optimizer in zip(models, optimizers, strict=True):
                optimizer.zero_grad()
                with EventStorage() as storage:
                    losses = model(inputs(*BATCH, seed=step))
                sum(losses.values()).backward()
                gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
                records.append((losses, gradients, storage.latest()))
                optimizer.step()
            (losses, gradients, logged), expected = records[0], records[1]
            assert list(losses) == list(expected[0])
            assert all(torch.equal(losses[name], expected[0][name]) for name in losses)
            assert all(torch.equal(gradients[name], expected[1][name]) for name in gradients)
            assert gradients["backbone.stem.weight"].abs().sum() > 0
            assert logged == expected[2]
        assert all(
            torch.equal(x, y) for x, y in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        )

    @pytest.mark.parametrize("threshold", [0.05, 0.6])
    def test_detections(self, threshold):
        results = []
        for classes in ((FCOS, FCOSHead), (detectron2_fcos.FCOS, detectron2_fcos.FCOSHead)):
            model = build(*classes, test_score_thresh=threshold, test_topk_candidates=150).eval()
            with torch.no_grad():
                torch.manual_seed(3)
                for parameter in model.parameters():
                    parameter.normal_(std=0.15)
                model.head.bbox_pred.bias.fill_(2.0)
                results.append([x["instances"] for x in model(inputs(*BATCH))])
        assert sum(len(x) for x in results[0]) >= 50
        for ours, theirs in zip(*results, strict=True):
            assert set(ours.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
            assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
            assert torch.equal(ours.scores, theirs.scores)
            assert torch.equal(ours.pred_classes, theirs.pred_classes)

    def test_labels_and_their_form(self):
        ours, theirs = build(), build(detectron2_fcos.FCOS, detectron2_fcos.FCOSHead)
        rng = torch.Generator().manual_seed(5)
        corners = torch.rand(40, 2, generator=rng) * 90
        boxes = torch.cat([corners, corners + 4 + 80 * torch.rand(40, 2, generator=rng)], dim=1)
        crowd = truth(boxes.tolist(), [i % K for i in range(40)], (192, 256))
        anchors = ours.anchor_generator(maps(1, 8, size=(192, 256)))
        labels, matched = ours.label_anchors(anchors, [crowd, truth([])])
        expected_labels, expected_boxes = theirs.label_anchors(anchors, [crowd, truth([])])
        positive = labels[0] != K
        assert positive.sum() > 50
        assert all(torch.equal(x, y) for x, y in zip(labels, expected_labels, strict=True))
        assert torch.equal(matched[0][positive], expected_boxes[0][positive])

    def test_checkpoint_of_detectron2_loads_and_lacks_only_the_average(self):
        state = build(detectron2_fcos.FCOS, detectron2_fcos.FCOSHead, seed=7).state_dict()
        build().load_state_dict(state)
        result = build(normalizer="mean_ema").load_state_dict(state, strict=False)
        assert (result.missing_keys, result.unexpected_keys) == (["positives_average"], [])


@pytest.mark.parametrize("option", ["normalizer", "center_sampling", "test_thresh_on"])
def test_unknown_option_is_named(option):
    with pytest.raises(ValueError, match=f"{option}='other': must be one of"):
        build(**{option: "other"})


def test_built_from_a_lazy_config():
    head = LazyCall(FCOSHead)(num_classes="${..num_classes}", conv_dims=[8, 8], level_scales=True)
    head.input_shape = [LazyCall(ShapeSpec)(channels=8, stride=stride) for stride in STRIDES]
    head.extra = LazyCall(nn.Conv2d)(in_channels=8, out_channels=5, kernel_size=1)
    config = LazyCall(FCOS)(backbone=LazyCall(ThreeLevels)(), head=head, head_in_features=["p3", "p4", "p5"])
    config.update(num_classes=K, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, keep_locations=True, test_score_thresh=0.01)
    model = instantiate(config).eval()
    assert model.head.level_scales.shape == (3,)
    with torch.no_grad():
        result = model(inputs(truth([])))[0]["instances"]
    assert result.extra.shape == (len(result), 5)


class TestLosses:
    """One object, nine positives. The predicted box is exact at the central one; elsewhere it is 16 x 16 px inside of
    the object: GIoU loss 1 - 256 / 1600 = 0.84.
    """

    TERM = 0.84
    CENTRAL = CENTERNESS[4]

    def predictions(self):
        predictions = flat_predictions()
        with torch.no_grad():
            predictions[1][0][0, :, 3, 3] = torch.tensor([18, 18, 22, 22]) / 8
        return predictions

    def test_divided_by_the_mean_number_of_positives(self):
        losses = losses_of(build(normalizer="mean"), self.predictions(), truth([BOX], [1]))
        focal = (9 * 0.25 + (K * LOCATIONS - 9) * 0.75) * 0.25 * math.log(2)
        assert losses["loss_fcos_cls"].item() == pytest.approx(focal / 9)
        assert losses["loss_fcos_loc"].item() == pytest.approx(8 * self.TERM / 9, rel=1e-5)
        assert losses["loss_fcos_ctr"].item() == pytest.approx(math.log(2))

    def test_local_average_starts_at_300(self):
        losses = losses_of(build(), self.predictions(), truth([BOX]))
        assert losses["loss_fcos_loc"].item() == pytest.approx(8 * self.TERM / (0.9 * 300 + 0.1 * 9), rel=1e-5)

    def test_boxes_weighted_by_centerness(self):
        model = build(normalizer="mean", centerness_weighted_boxes=True, box_loss_weight=1.25)
        predictions = self.predictions()
        losses = losses_of(model, predictions, truth([BOX]))
        expected = 1.25 * self.TERM * (sum(CENTERNESS) - self.CENTRAL) / sum(CENTERNESS)
        assert losses["loss_fcos_loc"].item() == pytest.approx(expected, rel=1e-5)
        assert losses["loss_fcos_ctr"].item() == pytest.approx(math.log(2))
        losses["loss_fcos_loc"].backward()
        gradient = predictions[1][0].grad[0]
        # The predicted area grows by 2 px * 8 px a stride and side: d loss = -128 / 1600 * weight.
        assert gradient[0, 2, 2].item() == pytest.approx(-1.25 * 128 / 1600 * CENTERNESS[0] / sum(CENTERNESS), rel=1e-4)
        assert gradient[:, 0].abs().sum() == 0

    def test_centerness_target_reaches_the_loss(self):
        """BCE at logit z: softplus(z) - z * target."""
        predictions = self.predictions()
        with torch.no_grad():
            predictions[2][0].fill_(1.5)
        losses = losses_of(build(normalizer="mean"), predictions, truth([BOX]))
        expected = math.log1p(math.exp(1.5)) - 1.5 * sum(CENTERNESS) / 9
        assert losses["loss_fcos_ctr"].item() == pytest.approx(expected, rel=1e-5)

    def test_moving_average_is_kept_in_the_checkpoint(self):
        model = build(normalizer="mean_ema")
        assert model.state_dict()["positives_average"] == 100
        first = losses_of(model, self.predictions(), truth([BOX]))["loss_fcos_loc"]
        assert first.item() == pytest.approx(8 * self.TERM / 90.9, rel=1e-5)
        again = build(normalizer="mean_ema")
        again.load_state_dict(model.state_dict())
        second = losses_of(again, self.predictions(), truth([BOX]))["loss_fcos_loc"]
        assert second.item() == pytest.approx(8 * self.TERM / (0.9 * 90.9 + 0.9), rel=1e-5)
        assert "positives_average" not in build(normalizer="mean").state_dict()

    def test_two_steps_may_share_one_backward_pass(self):
        model = build(normalizer="mean_ema")
        steps = [losses_of(model, self.predictions(), truth([BOX])) for _ in range(2)]
        sum(loss for losses in steps for loss in losses.values()).backward()

    @pytest.mark.parametrize("normalizer", ["local_ema", "mean", "mean_ema"])
    def test_batch_without_objects_trains_every_parameter(self, normalizer):
        model = build(normalizer=normalizer, centerness_weighted_boxes=True, head={"level_scales": True})
        with EventStorage():
            losses = model(inputs(truth([]), truth([])))
        assert losses["loss_fcos_cls"].item() > 0
        assert losses["loss_fcos_loc"].item() == losses["loss_fcos_ctr"].item() == 0
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    def test_mean_of_less_than_one_positive_counts_as_one(self):
        losses = losses_of(build(normalizer="mean"), flat_predictions(), truth([]))
        assert losses["loss_fcos_cls"].item() == pytest.approx(K * LOCATIONS * 0.75 * 0.25 * math.log(2), rel=1e-5)

    def test_bfloat16_autocast(self):
        batch = inputs(*BATCH)
        values = []
        for enabled in (False, True):
            model = build(normalizer="mean", centerness_weighted_boxes=True, head={"extra": nn.Conv2d(8, 5, 1)})
            with EventStorage(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                losses = model(batch)
            sum(losses.values()).backward()
            assert all(p.grad.isfinite().all() for n, p in model.named_parameters() if "extra" not in n)
            values.append(losses)
        for name, loss in values[1].items():
            assert loss.dtype == torch.float32
            assert loss.item() == pytest.approx(values[0][name].item(), rel=0.02)


class TestInference:
    def candidate(self, **kwargs):
        """One location with class probability 0.3 and centerness 0.2: product 0.06, score 0.245."""
        model = build(**kwargs)
        predictions = [maps(1, K, -20.0), maps(1, 4, 1.0), maps(1, 1, -20.0)]
        predictions[0][1][0, 2, 1, 3] = math.log(0.3 / 0.7)
        predictions[2][1][0, 0, 1, 3] = math.log(0.2 / 0.8)
        return model.forward_inference(ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)]), maps(1, 8), predictions)[0]

    @pytest.mark.parametrize(
        ("on", "below", "above"), [("score", 0.24, 0.25), ("product", 0.059, 0.061), ("class", 0.29, 0.31)]
    )
    def test_what_the_threshold_is_compared_with(self, on, below, above):
        found = self.candidate(test_thresh_on=on, test_score_thresh=below)
        assert found.scores.tolist() == pytest.approx([math.sqrt(0.06)])
        assert found.pred_classes.tolist() == [2]
        assert found.pred_boxes.tensor.tolist() == [[40, 8, 72, 40]]
        assert len(self.candidate(test_thresh_on=on, test_score_thresh=above)) == 0

    def locate(self, model, predictions, images=1):
        sizes = [(96, 128)] * images
        return model.forward_inference(ImageList(torch.zeros(images, 3, 96, 128), sizes), maps(images, 8), predictions)

    def test_location_level_and_extra_vector_stay_with_the_detection(self):
        """The extra output tells the location and the level, so that any mix-up shows."""
        model = build(keep_locations=True, test_score_thresh=0.3, test_topk_candidates=60, max_detections_per_image=40)
        rng = torch.Generator().manual_seed(0)
        predictions = [[torch.randn(x.shape, generator=rng) for x in maps(2, channels)] for channels in (K, 4, 1)]
        predictions[0][2] += 1.0  # some of the few coarse locations are among the best
        anchors = model.anchor_generator(maps(2, 8))
        extra = []
        for level, (level_anchors, shape) in enumerate(zip(anchors, maps(2, 3), strict=True)):
            vectors = torch.cat([level_anchors.get_centers(), torch.full((len(level_anchors), 1), level)], dim=1)
            extra.append(vectors.T.reshape(1, *shape.shape[1:]) + torch.tensor([0, 1000])[:, None, None, None])
        for image, found in enumerate(self.locate(model, [*predictions, extra], images=2)):
            assert len(found) == 40
            assert set(found.fpn_levels.tolist()) == {0, 1, 2}
            stored = torch.cat([found.locations, found.fpn_levels[:, None]], dim=1)
            assert torch.equal(found.extra - 1000 * image, stored)
            boxes, points = found.pred_boxes.tensor, found.locations
            assert (boxes[:, :2] <= points).all()
            assert (boxes[:, 2:] >= points).all()

    def test_without_extra_output_locations_alone(self):
        (found,) = self.locate(build(keep_locations=True, test_score_thresh=0.9), flat_predictions())
        assert len(found) == 0
        assert found.locations.shape == (0, 2)
        assert not found.has("extra")

    def test_in_training_mode_it_leaves_the_predictions_to_the_losses(self):
        model = build(test_score_thresh=0.01).train()
        predictions = flat_predictions()
        before = [[level.clone() for level in levels] for levels in predictions]
        (found,) = self.locate(model, predictions)
        assert len(found) == 100
        assert all(
            torch.equal(x, y) for a, b in zip(before, predictions, strict=True) for x, y in zip(a, b, strict=True)
        )
        sum(losses_of(model, predictions, truth([BOX])).values()).backward()
        assert predictions[2][0].grad.abs().sum() > 0

    def test_coordinates_are_not_rounded_to_bfloat16(self):
        """At 1000 px, bfloat16 knows multiples of 4 only."""
        model = build(test_score_thresh=0.3)
        size = (32, 1024)
        predictions = [[x.bfloat16() for x in maps(1, c, v, size)] for c, v in ((K, -20.0), (4, 0.75), (1, -20.0))]
        predictions[0][0][0, 0, 1, 125] = predictions[2][0][0, 0, 1, 125] = 5.0
        images = ImageList(torch.zeros(1, 3, *size), [size])
        (found,) = model.forward_inference(images, maps(1, 8, size=size), predictions)
        assert found.pred_boxes.tensor.tolist() == [[998, 6, 1010, 18]]


JOB = """
import sys
import torch, torch.distributed as dist, torch.multiprocessing as mp
sys.path.insert(0, {folder!r})
from test_model import BOX, CENTERNESS, TestLosses, build, inputs, losses_of, truth
from detectron2.utils.events import EventStorage

def close(tensor, value):
    assert abs(tensor.item() - value) < 1e-4 * max(abs(value), 1e-3), (tensor, value)

def job(rank):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
    objects = [truth([BOX])] if rank == 0 else [truth([])]
    # 9 and 0 positives: the mean is 4.5.
    model = build(normalizer="mean", centerness_weighted_boxes=True)
    losses = losses_of(model, TestLosses().predictions(), *objects)
    total, central = sum(CENTERNESS), CENTERNESS[4]
    close(losses["loss_fcos_loc"], 0.84 * (total - central) / (total / 2) if rank == 0 else 0.0)
    close(losses["loss_fcos_ctr"], 2 * 0.693147 if rank == 0 else 0.0)
    model = build(normalizer="mean_ema")
    losses_of(model, TestLosses().predictions(), *objects)
    close(model.positives_average, 0.9 * 100 + 0.1 * 4.5)
    # No objects at all, then all on one rank, under DDP: every parameter has its gradient on both.
    ddp = torch.nn.parallel.DistributedDataParallel(
        build(normalizer="mean", centerness_weighted_boxes=True, head={{"level_scales": True}})
    )
    for objects in ([truth([])], objects):
        ddp.zero_grad()
        with EventStorage():
            losses = ddp(inputs(*objects))
        sum(losses.values()).backward()
        sums = torch.stack([p.grad.abs().sum() for p in ddp.parameters()])
        other = [torch.empty_like(sums) for _ in range(2)]
        dist.all_gather(other, sums)
        assert sums.isfinite().all() and torch.equal(*other)
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.start_processes(job, nprocs=2, start_method="fork")  # inherits the imports
"""


@pytest.mark.slow
def test_normalizers_are_shared_by_two_processes_of_which_one_has_no_objects(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(JOB.format(folder=os.path.dirname(__file__)))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "meeting")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_ignored_locations_have_no_class_loss_and_no_gradient():
    """Logits are 0: each class of a background location costs 0.75 * 0.5^2 * ln 2."""
    for boxes in ([BOX], []):
        objects = truth(boxes)
        before = losses_of(build(), flat_predictions(), objects)["loss_fcos_cls"]
        # Two locations of the finest level, one of the next.
        objects.gt_ignored = SharedBoxes(torch.tensor([[70.0, 8.0, 82.0, 14.0], [64.0, 65.0, 75.0, 75.0]]), len(boxes))
        predictions = flat_predictions()
        losses = losses_of(build(), predictions, objects)
        sum(losses.values()).backward()
        ignored = [(level.grad[0] == 0).all(dim=0).nonzero().flip(1).tolist() for level in predictions[0]]
        assert ignored == [[[9, 1], [8, 8]], [[4, 4]], []]
        difference = 3 * K * 0.75 * 0.25 * math.log(2)
        normalizer = 0.9 * 300 + 0.1 * max(len(boxes) * len(CENTERNESS), 1)
        assert before.item() - losses["loss_fcos_cls"].item() == pytest.approx(difference / normalizer, rel=1e-3)
