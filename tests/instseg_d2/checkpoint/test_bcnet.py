"""The conversion against the release's model written anew, in plain functions, under the release's own names."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch.nn import functional as F

from instseg_d2.checkpoint import CheckpointMismatchError, load_weights
from instseg_d2.checkpoint.bcnet import convert_bcnet, convert_mask_head
from instseg_d2.checkpoint.conversion import compare
from instseg_d2.model_zoo import get_config

ROOT = Path(__file__).resolve().parents[3]
RECIPE = "BCNet/bcnet_released_fcos_r50_fpn_coco_1x"
CLASSES, WIDTH, STEM, INNER = 5, 32, 8, 4
STAGES = {"res2": (STEM, 16, 1), "res3": (16, 20, 2), "res4": (20, 24, 2), "res5": (24, 28, 2)}
SUFFIXES = ("_bo", "")


def narrow(cfg):
    """Shrink the released model to 0.3 million parameters; GroupNorm asks for 32 channels."""
    bottom_up = cfg.model.detector.backbone.bottom_up
    bottom_up.stem.out_channels = STEM
    bottom_up.stages = [
        L(ResNet.make_stage)(
            block_class=BottleneckBlock,
            num_blocks=1,
            stride_per_block=[stride],
            in_channels=before,
            out_channels=after,
            bottleneck_channels=INNER,
            stride_in_1x1=True,
            norm="FrozenBN",
        )
        for before, after, stride in STAGES.values()
    ]
    cfg.model.detector.backbone.out_channels = WIDTH
    cfg.model.detector.head.conv_dims = [WIDTH] * 4
    cfg.model.detector.num_classes = CLASSES
    cfg.model.mask_head.conv_dim = WIDTH
    return cfg


def convolution(shapes, name, out, size, into, *, bias=True):
    shapes[f"{name}.weight"] = (out, into, size, size)
    if bias:
        shapes[f"{name}.bias"] = (out,)


def norm(shapes, name, channels, *parts):
    shapes.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", *parts)})


def release_shapes():
    shapes = {}
    statistics = ("running_mean", "running_var")
    bottom_up = "backbone.bottom_up"
    convolution(shapes, f"{bottom_up}.stem.conv1", STEM, 7, 3, bias=False)
    norm(shapes, f"{bottom_up}.stem.conv1.norm", STEM, *statistics)
    for stage, (before, after, _) in STAGES.items():
        layers = {
            "shortcut": (after, 1, before),
            "conv1": (INNER, 1, before),
            "conv2": (INNER, 3, INNER),
            "conv3": (after, 1, INNER),
        }
        for layer, sizes in layers.items():
            convolution(shapes, f"{bottom_up}.{stage}.0.{layer}", *sizes, bias=False)
            norm(shapes, f"{bottom_up}.{stage}.0.{layer}.norm", sizes[0], *statistics)
    for level in (3, 4, 5):
        convolution(shapes, f"backbone.fpn_lateral{level}", WIDTH, 1, STAGES[f"res{level}"][1])
        convolution(shapes, f"backbone.fpn_output{level}", WIDTH, 3, WIDTH)
    for level in (6, 7):
        convolution(shapes, f"backbone.top_block.p{level}", WIDTH, 3, WIDTH)
    for tower in ("cls_tower", "bbox_tower"):
        for index in (0, 3, 6, 9):
            convolution(shapes, f"head.{tower}.{index}", WIDTH, 3, WIDTH)
            norm(shapes, f"head.{tower}.{index + 1}", WIDTH)
    for name, out in (("cls_logits", CLASSES), ("bbox_pred", 4), ("centerness", 1)):
        convolution(shapes, f"head.{name}", out, 3, WIDTH)
    shapes.update({f"head.scales.{level}.scale": (1,) for level in range(5)})
    mask_head_shapes(shapes)
    return shapes


def mask_head_shapes(shapes):
    for tower in ("mask", "boundary"):
        for number in range(1, 5):
            convolution(shapes, f"mask_head.{tower}_fcn{number}", WIDTH, 3, WIDTH)
    for suffix in SUFFIXES:
        for part in ("query", "key", "value", "output"):
            convolution(shapes, f"mask_head.{part}_transform_bound{suffix}", WIDTH, 1, WIDTH, bias=False)
        norm(shapes, f"mask_head.blocker_bound{suffix}", WIDTH, "running_mean", "running_var")
        shapes[f"mask_head.blocker_bound{suffix}.num_batches_tracked"] = ()
        convolution(shapes, f"mask_head.predictor{suffix}", 1, 1, WIDTH)
        convolution(shapes, f"mask_head.boundary_predictor{suffix}", 1, 1, WIDTH)
    for name in ("deconv", "bo_deconv", "boundary_deconv", "boundary_deconv_bo"):
        convolution(shapes, f"mask_head.{name}", WIDTH, 2, WIDTH)


@pytest.fixture
def release():
    """A made-up state of the release: no two tensors are alike, and none is as a new model has it."""
    rng = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in release_shapes().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(len(state))
        elif name.endswith(("running_var", ".scale")) or (len(shape) == 1 and name.endswith("weight")):
            state[name] = torch.rand(shape, generator=rng) + 0.5
        else:
            fan_in = torch.tensor(shape[1:]).prod().item() if len(shape) > 1 else 16
            state[name] = torch.randn(shape, generator=rng) * (2 / fan_in) ** 0.5
    return state


@pytest.fixture
def model():
    return instantiate(narrow(get_config(RECIPE)).model).eval()


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, 128, 160), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


class Release:
    """The release's model, evaluated by its names."""

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **options)

    def fixed_norm(self, name, x, eps):
        weight, bias, mean, variance = (
            self.state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (variance + eps).sqrt() * weight + bias

    def backbone_layer(self, name, x, **options):
        return self.fixed_norm(f"{name}.norm", self.conv(name, x, **options), 1e-5)

    def block(self, name, x, stride):
        out = F.relu(self.backbone_layer(f"{name}.conv1", x, stride=stride))
        out = F.relu(self.backbone_layer(f"{name}.conv2", out, padding=1))
        return F.relu(
            self.backbone_layer(f"{name}.conv3", out) + self.backbone_layer(f"{name}.shortcut", x, stride=stride)
        )

    def features(self, image):
        x = image.float() - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
        x = F.relu(self.backbone_layer("backbone.bottom_up.stem.conv1", x[None], stride=2, padding=3))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        stages = []
        for stage, (_, _, stride) in STAGES.items():
            x = self.block(f"backbone.bottom_up.{stage}.0", x, stride)
            stages.append(x)
        levels, above = [], 0
        for number, x in zip((5, 4, 3), stages[:0:-1], strict=True):
            above = self.conv(f"backbone.fpn_lateral{number}", x) + above
            levels.insert(0, self.conv(f"backbone.fpn_output{number}", above, padding=1))
            above = above.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        p6 = self.conv("backbone.top_block.p6", levels[-1], stride=2, padding=1)
        return [*levels, p6, self.conv("backbone.top_block.p7", F.relu(p6), stride=2, padding=1)]

    def tower(self, name, x):
        for index in (0, 3, 6, 9):
            x = self.conv(f"{name}.{index}", x, padding=1)
            weight, bias = (self.state[f"{name}.{index + 1}.{part}"] for part in ("weight", "bias"))
            x = F.relu(F.group_norm(x, 32, weight, bias))
        return x

    def dense(self, level, x):
        """Class logits, distances to the sides in pixels, centerness logits."""
        classes, boxes = self.tower("head.cls_tower", x), self.tower("head.bbox_tower", x)
        distances = self.conv("head.bbox_pred", boxes, padding=1) * self.state[f"head.scales.{level}.scale"]
        return (
            self.conv("head.cls_logits", classes, padding=1),
            F.relu(distances) * 2 ** (level + 3),
            self.conv("head.centerness", boxes, padding=1),
        )

    def layer(self, convolutions, suffix, x):
        for number in range(1, 5):
            x = F.relu(self.conv(f"mask_head.{convolutions}_fcn{number}", x, padding=1))
            if number == 2:
                query, key, value = (
                    self.conv(f"mask_head.{part}_transform_bound{suffix}", x).flatten(2)
                    for part in ("query", "key", "value")
                )
                weights = torch.einsum("rci,rcj->rij", query, key).div(WIDTH**0.5).softmax(dim=2)
                mixed = torch.einsum("rij,rcj->rci", weights, value).view_as(x)
                mixed = self.conv(f"mask_head.output_transform_bound{suffix}", mixed)
                x = x + self.fixed_norm(f"mask_head.blocker_bound{suffix}", mixed, 1e-4)
        return x

    def maps(self, x):
        """Object and its contour, occluder and its contour: logits."""
        occluder = self.layer("boundary", "_bo", x)
        occludee = self.layer("mask", "", x + occluder)
        names = [
            ("masks", occludee, "deconv", "predictor"),
            ("contours", occludee, "boundary_deconv", "boundary_predictor"),
            ("occluder_masks", occluder, "bo_deconv", "predictor_bo"),
            ("occluder_contours", occluder, "boundary_deconv_bo", "boundary_predictor_bo"),
        ]
        result = {}
        for key, features, deconv, predictor in names:
            weight, bias = (self.state[f"mask_head.{deconv}.{part}"] for part in ("weight", "bias"))
            up = F.relu(F.conv_transpose2d(features, weight, bias, stride=2))
            result[key] = self.conv(f"mask_head.{predictor}", up)
        return result


def same(ours, theirs):
    scale = theirs.abs().max()
    assert scale > 0.01  # else agreement would say nothing
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(scale.clamp(min=1)))


def test_every_tensor_finds_its_place(release, model):
    converted = convert_bcnet(release)
    assert len(converted) == len(release) - 4  # five scales become one tensor
    assert not compare(converted, model)
    assert converted["detector.head.level_scales"].tolist() == [
        release[f"head.scales.{level}.scale"].item() for level in range(5)
    ]
    assert (
        converted["mask_head.occluder.graph.norm.num_batches_tracked"]
        == release["mask_head.blocker_bound_bo.num_batches_tracked"]
    )


@torch.no_grad()
def test_detector_predicts_what_the_release_does(release, model, image):
    model.load_state_dict(convert_bcnet(release))
    features = model.backbone(model.preprocess_image([{"image": image}]).tensor)
    expected = Release(release).features(image)
    levels = [features[name] for name in ("p3", "p4", "p5", "p6", "p7")]
    predictions = model.detector.head(levels)
    for index, (ours, theirs) in enumerate(zip(levels, expected, strict=True)):
        same(ours, theirs)
        classes, distances, centerness = Release(release).dense(index, theirs)
        same(predictions[0][index], classes)
        same(predictions[1][index] * 2 ** (index + 3), distances)
        same(predictions[2][index], centerness)


@torch.no_grad()
def test_mask_head_predicts_what_the_release_does(release, model):
    model.load_state_dict(convert_bcnet(release))
    model.mask_head.keep_aux = True
    x = torch.randn(3, WIDTH, 14, 14, generator=torch.Generator().manual_seed(2))
    _, ours = model.mask_head.layers(x, [])
    theirs = Release(release).maps(x)
    assert list(ours) == list(theirs)
    for name, logits in theirs.items():
        same(ours[name], logits)


def test_mask_head_alone(release, model):
    part = {name[len("mask_head.") :]: value for name, value in release.items() if name.startswith("mask_head.")}
    model.mask_head.load_state_dict(convert_mask_head(part))
    assert torch.equal(model.mask_head.occludee.conv3.weight, release["mask_head.mask_fcn3.weight"])


@pytest.mark.parametrize(
    "name", ["head.iou.weight", "mask_head.predictor2.weight", "roi_heads.box.weight", "pixel_mean"]
)
def test_unknown_names_are_all_listed(release, name):
    release.update({name: torch.zeros(1), "mask_head.maskiou_fcn1.weight": torch.zeros(1)})
    with pytest.raises(
        CheckpointMismatchError, match=f"2 of {len(release) - 5} tensors are no part of a BCNet"
    ) as error:
        convert_bcnet(release)
    assert f"\n  {name}" in str(error.value)
    assert "\n  mask_head.maskiou_fcn1.weight" in str(error.value)


def test_unknown_names_of_the_mask_head_alone():
    with pytest.raises(CheckpointMismatchError, match="1 of 1 tensors are no part of the mask head"):
        convert_mask_head({"mask_fcn.weight": torch.zeros(1)})


@pytest.mark.parametrize("change", [{"head.scales.2.scale": None}, {"head.scales.4.scale": torch.ones(2)}])
def test_scales_are_one_number_a_level(release, change):
    state = {**release, **change}
    with pytest.raises(CheckpointMismatchError, match=r"head\.scales \(0: \(1,\), .*one number for each level"):
        convert_bcnet({name: value for name, value in state.items() if value is not None})


def test_a_level_or_a_tower_too_few_does_not_fit(release, model):
    missing = [name for name in release if name.startswith(("head.scales.4", "mask_head.boundary_fcn4"))]
    differences = compare(convert_bcnet({name: release[name] for name in release if name not in missing}), model)
    assert differences.missing == tuple(f"mask_head.occluder.conv4.{part}" for part in ("weight", "bias"))
    assert differences.shapes == {"detector.head.level_scales": ((4,), (5,))}


def test_the_papers_own_settings_are_another_model(release):
    other = instantiate(narrow(get_config("BCNet/bcnet_fcos_r50_fpn_coco_1x")).model)
    differences = compare(convert_bcnet(release), other)
    assert "mask_head.occluder.graph.output.weight" in differences.unexpected
    assert "mask_head.deconvs.occludee.weight" in differences.missing


@pytest.mark.parametrize("depth", ["r50_fpn_coco_1x", "r101_fpn_coco_2x", "x101_fpn_coco_2x"])
def test_released_recipes(depth):
    cfg = get_config(f"BCNet/bcnet_released_fcos_{depth}")
    assert (cfg.model.gt_boxes_only, cfg.model.mask_head.deconvs, cfg.model.mask_head.graph.norm) == (
        True,
        "output",
        "BN",
    )
    with torch.device("meta"):
        model = instantiate(cfg.model)
    # The release's counts: 32,244,250 and 51,184,154 of the detector, 6,296,580 of the mask head.
    parameters = {"r50": 38540830, "r101": 57480734, "x101": 101625374}[depth.partition("_")[0]]
    assert sum(value.numel() for value in model.parameters()) == parameters
    block = model.backbone.bottom_up.res3[0]
    strides = (block.conv1.stride[0], block.conv2.stride[0])
    assert strides == ((1, 2) if depth.startswith("x101") else (2, 1))
    assert block.conv2.groups == (32 if depth.startswith("x101") else 1)


def test_the_tool_writes_weights_that_load(release, model, tmp_path, monkeypatch, capsys):
    source, target = tmp_path / "release.pth", tmp_path / "ours.pth"
    # as the release's version of torch writes files
    torch.save({"model": release, "iteration": 179999}, source, _use_new_zipfile_serialization=False)
    spec = importlib.util.spec_from_file_location("convert_weights", ROOT / "tools" / "convert_weights.py")
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "convert_weights", tool)
    spec.loader.exec_module(tool)
    cfg = narrow(get_config(RECIPE))
    monkeypatch.setattr(tool, "get_config", lambda name: cfg if name == RECIPE else get_config(name))
    monkeypatch.setattr(sys, "argv", ["", "--from", "bcnet", str(source), str(target), "--config-file", RECIPE])
    assert tool.main() == 0
    assert "each tensor of the model has a value" in capsys.readouterr().out
    load_weights(model, str(target))
    assert torch.equal(model.detector.head.ctrness.weight, release["head.centerness.weight"])
