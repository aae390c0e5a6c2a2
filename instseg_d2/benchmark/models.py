"""What the benchmarks run: recipes with random weights that detect, their steps, and torchvision's twin."""

import re
from collections.abc import Callable

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou

from instseg_d2.data import occluder_masks
from instseg_d2.data.indexed_masks import IndexedBitMasks
from instseg_d2.modeling.meta_arch.base import KernelDetector

from .compare import Step

MASK_RCNN = "Baselines/mask_rcnn_r50_fpn_coco_1x"
# A step that moves the weights by nothing that matters: repetitions do the same work.
_TINY_LR = 1e-8


def landscape(size: int) -> tuple[int, int]:
    """(height, width) of a 4:3 image whose short edge is `size`."""
    return size, int(size * 4 / 3 + 0.5)


def blurry_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """(3, H, W) uint8 with structure at all scales, so that features differ from place to place."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, height, width)
    for cells, contrast in ((4, 50.0), (16, 40.0), (64, 30.0), (256, 15.0)):
        noise = torch.randn(1, 3, cells, cells * width // height, generator=rng)
        image += contrast * F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)
    return (image[0] + 115).clamp(0, 255).to(torch.uint8)


def ellipse_instances(height: int, width: int, count: int, num_classes: int, seed: int = 0) -> Instances:
    """Ground truth of filled ellipses from a tenth to half of the image's height, which overlap."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((count, height, width), dtype=bool)
    for mask in masks:
        half = rng.uniform(0.05, 0.25, 2) * height
        centre = rng.uniform(half, np.array([width, height]) - half)
        mask[:] = ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 <= 1
    instances = Instances((height, width))
    instances.gt_masks = IndexedBitMasks(torch.from_numpy(masks))
    instances.gt_boxes = Boxes(instances.gt_masks.get_bounding_boxes().tensor)
    instances.gt_classes = torch.from_numpy(rng.integers(0, num_classes, count))
    return instances


def add_occluders(inputs: list[dict]) -> None:
    """Give ground truth the occluders that some mask heads ask for; others would carry them along for nothing."""
    for truth in (item["instances"] for item in inputs):
        truth.gt_occluders = IndexedBitMasks(occluder_masks(truth.gt_masks.tensor, truth.gt_boxes.tensor))


def batch_of(size: int, batch: int, *, instances: int = 0, num_classes: int = 1) -> list[dict]:
    """Inputs of a model: images of short edge `size`, with ground truth if `instances` of it are asked for."""
    height, width = landscape(size)
    inputs = []
    for index in range(batch):
        item = {"image": blurry_image(height, width, seed=index), "height": height, "width": width}
        if instances:
            item["instances"] = ellipse_instances(height, width, instances, num_classes, seed=index)
        inputs.append(item)
    return inputs


def _standardise(layer: nn.Module, outputs: torch.Tensor, std: float) -> None:
    """Change a linear or convolution layer so that its outputs (N, C) get zero mean and `std`, channel by channel."""
    scale = std / outputs.std(dim=0).clamp(min=1e-12)
    shape = [1] * layer.weight.dim()
    shape[0] = -1
    layer.bias.sub_(outputs.mean(dim=0)).mul_(scale)
    layer.weight.mul_(scale.view(shape))


def make_it_detect(model: nn.Module, inputs: list[dict]) -> bool:
    """Rescale the last layers of a model with random weights until it detects about as many as a trained one does.

    With weights as they are initialised all classes are equally likely, nothing reaches the score threshold, and what
    makes the masks has nothing to do. Afterwards the predictions on these inputs have the spread that lets some
    through the unchanged thresholds of the recipe.

    Returns:
        Whether the model has the parts of a Mask R-CNN on a feature pyramid, or predicts kernels in cells (SOLOv2,
        PEP); others are left as they are.
    """
    return _make_boxes(model, inputs) or _make_kernels(model, inputs)


@torch.no_grad()
def _make_kernels(model: nn.Module, inputs: list[dict], candidates: int = 600) -> bool:
    """Let so many pairs of cell and class through, with masks of some hundred pixels."""
    heads = [part for part in model.modules() if hasattr(part, "category_pred") and hasattr(part, "kernel_pred")]
    if len(heads) != 1 or not isinstance(model, KernelDetector):
        return False
    maps: dict[str, list[torch.Tensor]] = {"category_pred": [], "kernel_pred": []}
    handles = [
        getattr(heads[0], name).register_forward_hook(
            lambda _, __, output, kept=kept: kept.append(output.permute(0, 2, 3, 1).flatten(0, 2))
        )
        for name, kept in maps.items()
    ]
    model.eval()
    features = model.backbone(model.preprocess_image(inputs).tensor)
    model.predict(features)
    for handle in handles:
        handle.remove()
    categories, kernels = (torch.cat(kept) for kept in maps.values())
    _standardise(heads[0].category_pred, categories, 1.0)
    normal = (categories - categories.mean(dim=0)) / categories.std(dim=0).clamp(min=1e-12)
    # Logit of the thresholds of the recipes, a class probability of 0.1.
    heads[0].category_pred.bias.add_(-2.2 - normal.flatten().topk(min(candidates, normal.numel())).values[-1])
    shown = model.mask_branch([features[name] for name in model.mask_in_features])[0].flatten(1)
    some = torch.linspace(0, len(kernels) - 1, 100).long()
    normal = (kernels - kernels.mean(dim=0)) / kernels.std(dim=0).clamp(min=1e-12)
    _standardise(heads[0].kernel_pred, kernels, 3.0 / (normal[some] @ shown).std().item())
    return True


@torch.no_grad()
def _make_boxes(model: nn.Module, inputs: list[dict]) -> bool:
    """The parts of a Mask R-CNN: boxes of all sizes get through."""
    needed = ("backbone", "proposal_generator.rpn_head.objectness_logits", "roi_heads.box_predictor.cls_score")
    modules = dict(model.named_modules())
    if any(name not in modules for name in needed) or not hasattr(model.backbone, "fpn_output2"):
        return False
    model.eval()
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    # Coarse levels have fewer anchors: more contrast there makes up for it, and boxes of all sizes are proposed.
    for level, contrast in ((2, 0.45), (3, 0.6), (4, 0.85), (5, 1.4)):
        output = modules[f"backbone.fpn_output{level}"]
        scale = contrast / features[f"p{level}"].std()
        output.weight.mul_(scale)
        output.bias.mul_(scale)
    features = model.backbone(images.tensor)

    head = model.proposal_generator.rpn_head
    logits, deltas = head([features[name] for name in model.proposal_generator.in_features])
    for layer, maps, std in ((head.objectness_logits, logits, 1.0), (head.anchor_deltas, deltas, 0.15)):
        _standardise(layer, torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps]), std)

    proposals, _ = model.proposal_generator(images, features, None)
    roi_heads = model.roi_heads
    pyramid = [features[name] for name in roi_heads.box_in_features]
    pooled = roi_heads.box_head(roi_heads.box_pooler(pyramid, [x.proposal_boxes for x in proposals]))
    scores, deltas = roi_heads.box_predictor(pooled)
    _standardise(roi_heads.box_predictor.cls_score, scores, 4.0)
    # Most proposals of a trained model are background.
    roi_heads.box_predictor.cls_score.bias[-1] += 10
    _standardise(roi_heads.box_predictor.bbox_pred, deltas, 0.5)

    predictor = getattr(getattr(roi_heads, "mask_head", None), "predictor", None)
    if isinstance(predictor, nn.Conv2d):
        logits = []
        handle = predictor.register_forward_hook(lambda _, __, output: logits.append(output))
        model(inputs)
        handle.remove()
        _standardise(predictor, torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in logits]), 3.0)
    return True


def inference(model: nn.Module, inputs: list[dict]) -> Callable[[], list[dict]]:
    """A function that predicts once."""

    def run() -> list[dict]:
        model.eval()
        with torch.inference_mode():
            return model(inputs)

    return run


def training(model: nn.Module, cfg: DictConfig, inputs: list[dict]) -> Callable[[], dict[str, float]]:
    """A function that does one step: losses, gradients, and the recipe's optimizer with a learning rate near zero.

    It gives the losses, and the scalars that the model logs.
    """
    cfg.optimizer.lr = _TINY_LR
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)

    def run() -> dict[str, float]:
        model.train()
        # The same proposals are sampled each time and on each side.
        torch.manual_seed(0)
        with EventStorage(0) as storage:
            losses = model(inputs)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            logged = {name: float(value) for name, (value, _) in storage.latest().items()}
        return {**logged, **{name: float(value.detach()) for name, value in losses.items()}}

    return run


def step(
    name: str, model: nn.Module, run: Callable[[], object], *, device: str, clock: str, is_training: bool = False
) -> Step:
    """A competitor with the parts that a two-stage model has; others are measured as a whole."""
    parts = {
        part: getattr(model, attribute)
        for part, attributes in (
            ("backbone", ("backbone",)),
            ("proposals", ("proposal_generator", "rpn")),
            ("heads", ("roi_heads",)),
        )
        for attribute in attributes
        if isinstance(getattr(model, attribute, None), nn.Module)
    }
    rest = "backward and step" if is_training else "postprocessing"
    return Step(name, run, device, clock, parts if len(parts) == 3 else None, rest)


def detections(output: dict) -> dict[str, list]:
    """Boxes, scores and classes of one image, from detectron2's or torchvision's (background first) output."""
    if "instances" in output:
        found = output["instances"]
        boxes, scores, classes = found.pred_boxes.tensor, found.scores, found.pred_classes
    else:
        boxes, scores, classes = output["boxes"], output["scores"], output["labels"] - 1
    return {"boxes": boxes.tolist(), "scores": scores.tolist(), "classes": classes.tolist()}


def agreement(a: dict[str, list], b: dict[str, list]) -> dict[str, float]:
    """How far two sets of detections are the same.

    Returns:
        `count_A`, `count_B`; `side_A`, `side_B`: mean square root of the box area, pixels; `iou`: mean over the boxes
        of A of the IoU with the best box of the same class in B; `same`: how many of those are above 0.99.
    """
    boxes_a, boxes_b = (torch.tensor(x["boxes"]).reshape(-1, 4) for x in (a, b))
    classes_a, classes_b = (torch.tensor(x["classes"]) for x in (a, b))
    best = torch.zeros(len(boxes_a))
    if len(boxes_a) and len(boxes_b):
        best = (box_iou(boxes_a, boxes_b) * (classes_a[:, None] == classes_b)).max(dim=1).values
    sides = [
        (x[:, 2:] - x[:, :2]).clamp(min=0).prod(dim=1).sqrt().mean().item() if len(x) else 0.0
        for x in (boxes_a, boxes_b)
    ]
    return {
        "count_A": len(boxes_a),
        "count_B": len(boxes_b),
        "side_A": sides[0],
        "side_B": sides[1],
        "iou": best.mean().item() if len(best) else 0.0,
        "same": int((best > 0.99).sum()),
    }


# detectron2's names -> torchvision's, first match wins; `stage - 1` and `level - 2` are done by the function below.
_NAMES = (
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.", r"backbone.body.bn1."),
    (r"backbone\.bottom_up\.stem\.conv1\.", r"backbone.body.conv1."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\.", r"backbone.body.layer{1-1}.\2.downsample.1."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.", r"backbone.body.layer{1-1}.\2.downsample.0."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm\.", r"backbone.body.layer{1-1}.\2.bn\3."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.", r"backbone.body.layer{1-1}.\2.conv\3."),
    (r"backbone\.fpn_lateral(\d)\.", r"backbone.fpn.inner_blocks.{1-2}.0."),
    (r"backbone\.fpn_output(\d)\.", r"backbone.fpn.layer_blocks.{1-2}.0."),
    (r"proposal_generator\.rpn_head\.conv\.", r"rpn.head.conv.0.0."),
    (r"proposal_generator\.rpn_head\.objectness_logits\.", r"rpn.head.cls_logits."),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.", r"rpn.head.bbox_pred."),
    (r"roi_heads\.box_head\.fc1\.", r"roi_heads.box_head.fc6."),
    (r"roi_heads\.box_head\.fc2\.", r"roi_heads.box_head.fc7."),
    (r"roi_heads\.box_predictor\.", r"roi_heads.box_predictor."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", r"roi_heads.mask_head.{1-1}.0."),
    (r"roi_heads\.mask_head\.deconv\.", r"roi_heads.mask_predictor.conv5_mask."),
    (r"roi_heads\.mask_head\.predictor\.", r"roi_heads.mask_predictor.mask_fcn_logits."),
)


def _torchvision_name(name: str) -> str:
    for pattern, replacement in _NAMES:
        found = re.match(pattern, name)
        if found:
            lowered = re.sub(r"{1-(\d)}", lambda by, one=found: str(int(one[1]) - int(by[1])), replacement)
            return found.expand(lowered) + name[found.end() :]
    raise KeyError(f"torchvision's Mask R-CNN has nothing like '{name}'")


class _AtGivenSize(GeneralizedRCNNTransform):
    """Normalises and pads, but does not resize: detectron2's models get their images at the final size too."""

    def resize(self, image: torch.Tensor, target: dict | None = None):
        return image, target


def to_torchvision(model: nn.Module, norm_layer: Callable[[int], nn.Module]) -> nn.Module:
    """Torchvision's Mask R-CNN R50-FPN with the weights, anchors and pixel statistics of a detectron2 one.

    It is the model of `maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)`, with `norm_layer` for the
    normalisation, and without resizing: images come at their final size. It places the anchors of the coarsest level
    up to 3 px per cell elsewhere where the image's size is no multiple of 64, so a few detections differ.

    Args:
        model: `GeneralizedRCNN` with strides in the 3x3 convolutions, as torchvision's.
        norm_layer: `nn.BatchNorm2d`, or torchvision's `FrozenBatchNorm2d`, which its trained weights come with.
    """
    num_classes = model.roi_heads.num_classes
    twin = MaskRCNN(
        resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=norm_layer),
        num_classes + 1,
    )
    statistics = [(values.flatten() / 255).tolist() for values in (model.pixel_mean, model.pixel_std)]
    twin.transform = _AtGivenSize(800, 1333, *statistics)
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith("roi_heads.box_predictor.cls_score."):
            # torchvision has the background first.
            value = value.roll(1, dims=0)
        elif name.startswith("roi_heads.box_predictor.bbox_pred."):
            value = torch.cat([torch.zeros_like(value[:4]), value])
        elif name.startswith("roi_heads.mask_head.predictor."):
            value = torch.cat([torch.zeros_like(value[:1]), value])
        state[_torchvision_name(name)] = value
    missing, unexpected = twin.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RuntimeError(f"torchvision's model lacks {unexpected} and asks for {missing}")
    # Its own are rounded to whole pixels.
    anchors = model.proposal_generator.anchor_generator.cell_anchors
    twin.rpn.anchor_generator.cell_anchors = [cell.clone() for cell in anchors]
    return twin.to(model.device).eval()


def use_torchvision_settings(cfg: DictConfig) -> DictConfig:
    """Give a recipe's model the settings that torchvision has fixed: strides, and sampling points of RoIAlign."""
    cfg.model.backbone.bottom_up.stages.stride_in_1x1 = False
    for pooler in (cfg.model.roi_heads.box_pooler, cfg.model.roi_heads.mask_pooler):
        pooler.update(pooler_type="ROIAlign", sampling_ratio=2)
    return cfg
