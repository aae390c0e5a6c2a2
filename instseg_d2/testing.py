"""Small models and data for tests: built in milliseconds, run on the CPU in tens of them."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from instseg_d2.engine.inpainting_trainer import AdversarialTrainer
from instseg_d2.inpainting.stages.stage import AdversarialStage
from instseg_d2.layers.dynamic_conv import DynamicLayers
from instseg_d2.model_zoo import get_config
from instseg_d2.modeling.meta_arch.condinst.head import Controller
from instseg_d2.modeling.meta_arch.condinst.teacher_student import (
    ClassMaskHead,
    PairedController,
    TeacherStudentCondInst,
)
from instseg_d2.modeling.pseudo_masks import PseudoMasks

_TINY_WIDTHS = (8, 8, 16, 24, 32)
TINY_CHANNELS = 16


def _make_tiny(backbone: DictConfig) -> None:
    """Shrink the backbone of a narrow model, in place."""
    _make_tiny_resnet(backbone.bottom_up)
    backbone.out_channels = TINY_CHANNELS


def _make_tiny_resnet(resnet: DictConfig) -> None:
    resnet.stem.out_channels = _TINY_WIDTHS[0]
    for stage, before, after in zip(resnet.stages, _TINY_WIDTHS, _TINY_WIDTHS[1:], strict=False):
        stage.update(num_blocks=1, stride_per_block=stage.stride_per_block[:1], in_channels=before, out_channels=after)


def tiny_mask_rcnn_config(num_classes: int = 3) -> DictConfig:
    """`model` node of a Mask R-CNN with fewer than 0.1 million parameters, for images of 64 to 128 px."""
    model = get_config("Baselines/mask_rcnn_narrow_fpn_occshapes_quick").model
    _make_tiny(model.backbone)
    model.roi_heads.num_classes = num_classes
    model.roi_heads.box_head.fc_dims = [32]
    model.roi_heads.box_predictor.input_shape.channels = 32
    model.roi_heads.mask_head.conv_dims = [16, 16]
    return model


def tiny_cascade_config(num_classes: int = 3) -> DictConfig:
    """`model` node of a Cascade Mask R-CNN with fewer than 0.1 million parameters, for images of 64 to 128 px."""
    model = get_config("Baselines/cascade_mask_rcnn_narrow_fpn_occshapes_quick").model
    _make_tiny(model.backbone)
    model.roi_heads.num_classes = num_classes
    for head, predictor in zip(model.roi_heads.box_heads, model.roi_heads.box_predictors, strict=True):
        head.fc_dims = [16]
        predictor.input_shape.channels = 16
    model.roi_heads.mask_head.conv_dims = [16, 16]
    return model


def tiny_fcos_mask_config(num_classes: int = 3) -> DictConfig:
    """`model` node of an FCOS with masks of fewer than 0.1 million parameters, for images of 64 to 128 px."""
    model = get_config("Baselines/fcos_mask_narrow_fpn_occshapes_quick").model
    _make_tiny(model.detector.backbone)
    model.detector.num_classes = num_classes
    # No norm: GroupNorm as it is asks for 32 channels.
    model.detector.head.update(conv_dims=[16], norm="")
    model.mask_head.conv_dims = [16, 16]
    return model


def tiny_condinst_config(num_classes: int = 3, *, recipe: str = "condinst") -> DictConfig:
    """`model` node of a CondInst of fewer than 0.1 million parameters, for images of 64 to 128 px.

    Args:
        num_classes: of the detector.
        recipe: "condinst", or "boxinst" for its supervision by boxes.
    """
    model = get_config(f"SIM/{recipe}_narrow_fpn_occshapes_quick").model
    _make_tiny(model.detector.backbone)
    model.detector.num_classes = num_classes
    # No norm: GroupNorm as it is asks for 32 channels.
    model.detector.head.update(conv_dims=[16], norm="")
    model.mask_branch.update(channels=16, num_convs=1)
    return model


def add_tiny_student(model: DictConfig, *, static: bool = True, **rules: Any) -> None:
    """Make a tiny CondInst a `TeacherStudentCondInst`, in place.

    Args:
        model: of `tiny_condinst_config`.
        static: the student's last layer is static, else dynamic, with an output a class.
        rules: of `PseudoMasks`.
    """
    num_classes = model.detector.num_classes
    depth = {"num_layers": 2, "out_channels": 8} if static else {"num_layers": 3, "out_channels": num_classes}
    layers = L(DynamicLayers)(in_channels=8, channels=8, **depth)
    model.update(
        _target_=TeacherStudentCondInst,
        teacher_head=model.mask_head,
        mask_head=L(ClassMaskHead)(
            layers=layers,
            num_classes=num_classes if static else None,
            level_sizes=model.mask_head.level_sizes,
            upsampling=2,
        ),
        pseudo_masks=L(PseudoMasks)(**rules),
    )
    model.detector.head.extra = L(PairedController)(
        teacher=L(Controller)(in_channels=TINY_CHANNELS, layers=L(DynamicLayers)(in_channels=8)),
        student=L(Controller)(in_channels=TINY_CHANNELS, layers=layers),
    )


def tiny_solov2_config(num_classes: int = 3) -> DictConfig:
    """`model` node of a SOLOv2 with fewer than 0.1 million parameters, for images of 64 to 128 px."""
    model = get_config("PEP/solov2_narrow_fpn_occshapes_quick").model
    _make_tiny(model.backbone)
    model.num_classes = num_classes
    # No norm: GroupNorm as it is asks for 32 channels.
    model.head.update(conv_dims=[16], norm="")
    model.mask_branch.update(conv_dim=16, out_channels=16, norm="")
    return model


def tiny_mask2former_config(num_classes: int = 3, *, recipe: str = "mask2former") -> DictConfig:
    """`model` node of a Mask2Former of about 0.1 million parameters, for images of 64 to 128 px.

    Args:
        num_classes: of the decoder.
        recipe: "mask2former", "mask2former_box" for its supervision by boxes, or "sim_mask2former" for SIM on it.
    """
    model = get_config(f"SIM/{recipe}_narrow_occshapes_quick").model
    _make_tiny_resnet(model.backbone)
    model.num_classes = num_classes
    # GroupNorm asks for 32 channels.
    model.pixel_decoder.update(
        in_channels=list(_TINY_WIDTHS[1:]), channels=32, mask_channels=16, num_layers=1, num_heads=4, feedforward=32
    )
    model.decoder.update(num_queries=6, feedforward=32, num_layers=2)
    if recipe == "mask2former":
        model.supervision.num_points = 64
    return model


def tiny_pep_config(num_classes: int = 3) -> DictConfig:
    """`model` node of a PEP with fewer than 0.1 million parameters, for images of 64 to 128 px."""
    model = get_config("PEP/pep_narrow_fpn_occshapes_quick").model
    _make_tiny(model.backbone)
    model.num_classes = num_classes
    # No norm: GroupNorm as it is asks for 32 channels.
    model.head.update(conv_dims=[16], descriptor_channels=16, norm="")
    model.mask_branch.update(conv_dim=16, norm="")
    model.excavating.update(window_size=8, conv_dims=[16])
    model.purifying.embedding_dims = [16, 16]
    return model


def tiny_tracking_rcnn_config(num_classes: int = 3, *, recipe: str = "tracking_rcnn") -> DictConfig:
    """`model` node of a Mask R-CNN that tracks, of about 0.1 million parameters, for images of 64 to 128 px.

    Args:
        num_classes: of the detector.
        recipe: "tracking_rcnn", or "pcan" for PCAN on it.
    """
    model = get_config(f"PCAN/{recipe}_narrow_fpn_occvideo_quick").model
    _make_tiny(model.backbone)
    model.roi_heads.num_classes = num_classes
    model.roi_heads.box_head.fc_dims = [32]
    model.roi_heads.box_predictor.input_shape.channels = 32
    model.roi_heads.mask_head.conv_dims = [16, 16]
    # No norm: GroupNorm as it is asks for 32 channels.
    model.track_head.update(conv_dims=[16], conv_norm="", fc_dims=[32], embedding_dim=16)
    if recipe == "pcan":
        model.frame_attention.attention.update(num_prototypes=8, iterations=2)
        model.instance_attention.update(foreground=4, background=4, iterations=2, conv_dim=16, num_convs=2)
    return model


def tiny_tracking_fcos_config(num_classes: int = 3, *, recipe: str = "tracking_fcos") -> DictConfig:
    """`model` node of an FCOS with masks that tracks, of about 0.1 million parameters, for images of 64 to 128 px.

    Args:
        num_classes: of the detector.
        recipe: "tracking_fcos", or "pcan_fcos" for PCAN on it.
    """
    model = get_config(f"PCAN/{recipe}_narrow_fpn_occvideo_quick").model
    _make_tiny(model.detector.backbone)
    model.detector.num_classes = num_classes
    # No norm: GroupNorm as it is asks for 32 channels.
    model.detector.head.update(conv_dims=[16], norm="")
    model.mask_head.conv_dims = [16, 16]
    model.track_head.update(conv_dims=[16], norm="", embedding_dim=16)
    if recipe == "pcan_fcos":
        model.frame_attention.attention.update(num_prototypes=8, iterations=2)
        model.instance_attention.update(foreground=4, background=4, iterations=2, conv_dim=16, num_convs=2)
    return model


def put_mask_head(model: DictConfig, mask_head: DictConfig, *, pooled: bool = True) -> DictConfig:
    """Give a `model` node another mask head, whatever its detector.

    Args:
        model: an R-CNN or a `DetectThenSegment`; changed in place.
        mask_head: the head's node; of the tiny models, the features have `TINY_CHANNELS` channels.
        pooled: the head takes pooled features; else the maps themselves, and pools for itself.

    Returns:
        the same `model`.
    """
    parent = model.roi_heads if "roi_heads" in model else model
    parent.mask_head = mask_head
    if not pooled:
        parent.mask_pooler = None
    return model


def tiny_mask_rcnn(num_classes: int = 3, seed: int = 0) -> nn.Module:
    """A Mask R-CNN with fewer than 0.1 million parameters and random weights, in training mode, on the CPU."""
    torch.manual_seed(seed)
    return instantiate(tiny_mask_rcnn_config(num_classes))


def tiny_cascade(num_classes: int = 3, seed: int = 0) -> nn.Module:
    """As `tiny_mask_rcnn`, a Cascade Mask R-CNN."""
    torch.manual_seed(seed)
    return instantiate(tiny_cascade_config(num_classes))


def tiny_fcos_mask(num_classes: int = 3, seed: int = 0) -> nn.Module:
    """As `tiny_mask_rcnn`, an FCOS with the head of Mask R-CNN behind it (`DetectThenSegment`)."""
    torch.manual_seed(seed)
    return instantiate(tiny_fcos_mask_config(num_classes))


def tiny_condinst(num_classes: int = 3, seed: int = 0, *, recipe: str = "condinst") -> nn.Module:
    """As `tiny_mask_rcnn`, a CondInst with one of the supervisions of `tiny_condinst_config`."""
    torch.manual_seed(seed)
    return instantiate(tiny_condinst_config(num_classes, recipe=recipe))


def tiny_solov2(num_classes: int = 3, seed: int = 0) -> nn.Module:
    """As `tiny_mask_rcnn`, a SOLOv2."""
    torch.manual_seed(seed)
    return instantiate(tiny_solov2_config(num_classes))


def tiny_mask2former(num_classes: int = 3, seed: int = 0, *, recipe: str = "mask2former") -> nn.Module:
    """As `tiny_mask_rcnn`, a Mask2Former with one of the supervisions of `tiny_mask2former_config`."""
    torch.manual_seed(seed)
    return instantiate(tiny_mask2former_config(num_classes, recipe=recipe))


def tiny_pep(num_classes: int = 3, seed: int = 0) -> nn.Module:
    """As `tiny_mask_rcnn`, a PEP."""
    torch.manual_seed(seed)
    return instantiate(tiny_pep_config(num_classes))


def tiny_tracking_rcnn(num_classes: int = 3, seed: int = 0, *, recipe: str = "tracking_rcnn") -> nn.Module:
    """As `tiny_mask_rcnn`, a Mask R-CNN that tracks, with one of the recipes of `tiny_tracking_rcnn_config`."""
    torch.manual_seed(seed)
    return instantiate(tiny_tracking_rcnn_config(num_classes, recipe=recipe))


def tiny_tracking_fcos(num_classes: int = 3, seed: int = 0, *, recipe: str = "tracking_fcos") -> nn.Module:
    """As `tiny_mask_rcnn`, an FCOS with masks that tracks, with one of the recipes of `tiny_tracking_fcos_config`."""
    torch.manual_seed(seed)
    return instantiate(tiny_tracking_fcos_config(num_classes, recipe=recipe))


def fake_instances(
    height: int, width: int, boxes: Sequence[Sequence[float]], classes: Sequence[int] | None = None
) -> Instances:
    """Ground truth whose masks are filled boxes.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        boxes: (N, 4) xyxy in whole pixels; may be empty.
        classes: (N,) class indices; all 0 when left out.

    Returns:
        Instances with `gt_boxes`, `gt_classes` and `gt_masks` (BitMasks).
    """
    corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(corners), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(corners)
    instances.gt_classes = torch.as_tensor(classes if classes is not None else [0] * len(corners)).long()
    instances.gt_masks = BitMasks(masks)
    return instances


def fake_batch(images: int = 2, height: int = 64, width: int = 96, num_classes: int = 3, seed: int = 0) -> list[dict]:
    """A training batch of noise images, each with two box-shaped instances, as the data loader gives it."""
    rng = torch.Generator().manual_seed(seed)
    boxes = [[8, 8, 40, 40], [30, 20, 80, 60]]
    return [
        {
            "image": torch.randint(0, 256, (3, height, width), generator=rng, dtype=torch.uint8),
            "instances": fake_instances(height, width, boxes, [index % num_classes, (index + 1) % num_classes]),
            "height": height,
            "width": width,
            "image_id": index,
            "file_name": f"{index}.png",
        }
        for index in range(images)
    ]


def fake_pairs(images: int = 2, height: int = 64, width: int = 96, num_classes: int = 3, seed: int = 0) -> list[dict]:
    """`fake_batch` as the loader of videos gives it: each image with one reference, in which the objects have moved."""
    batch = fake_batch(images, height, width, num_classes, seed)
    for item, reference in zip(batch, fake_batch(images, height, width, num_classes, seed + 1), strict=True):
        classes = reference["instances"].gt_classes
        reference["instances"] = fake_instances(height, width, [[12, 10, 44, 42], [26, 16, 76, 58]], classes.tolist())
        for frame in (item, reference):
            frame["instances"].gt_ids = torch.tensor([1, 2])
        item["references"] = [reference]
    return batch


def fake_video(length: int = 3, height: int = 64, width: int = 96, video_id: int = 1, seed: int = 0) -> list[dict]:
    """Frames of noise as the loader of videos gives them for testing, all much alike."""
    rng = torch.Generator().manual_seed(seed)
    first = torch.randint(0, 200, (3, height, width), generator=rng, dtype=torch.uint8)
    return [
        {
            "image": first + 5 * index,
            "height": height,
            "width": width,
            "image_id": 100 * video_id + index,
            "video_id": video_id,
            "frame_index": index,
            "video_length": length,
            "file_name": f"{video_id}/{index}.png",
        }
        for index in range(length)
    ]


def without_objects(batch: list[dict]) -> list[dict]:
    """The batch as the mapper gives it for images without annotations: empty ground truth without masks; in place."""
    for item in batch:
        empty = fake_instances(*item["image"].shape[1:], [])
        empty.remove("gt_masks")
        item["instances"] = empty
    return batch


def write_tiny_coco(folder: Path, images: int = 4, height: int = 64, width: int = 96) -> tuple[Path, Path]:
    """Write a COCO data set of filled rectangles on dark noise, two instances an image, polygons as masks.

    Args:
        folder: where `instances.json` and `images/` go.
        images: how many; the last one has no instances.
        height: pixels.
        width: pixels.

    Returns:
        The json file and the image folder.
    """
    rng = np.random.default_rng(0)
    image_dir = folder / "images"
    image_dir.mkdir(parents=True)
    records, annotations = [], []
    for index in range(images):
        picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        boxes = [] if index == images - 1 else [(6 + index, 8, 30, 36), (44, 18 + index, 36, 30)]
        for category, (x, y, w, h) in enumerate(boxes, start=1):
            picture[y : y + h, x : x + w] = (40, 60 + 90 * (category == 1), 60 + 90 * (category == 2))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        cv2.imwrite(str(image_dir / f"{index + 1}.png"), picture)
        records.append({"id": index + 1, "file_name": f"{index + 1}.png", "height": height, "width": width})
    categories = [{"id": 1, "name": "green"}, {"id": 2, "name": "red"}, {"id": 3, "name": "unused"}]
    json_file = folder / "instances.json"
    json_file.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return json_file, image_dir


def train_on_ranks(
    build: Callable[[], nn.Module], batches: Sequence[list[dict]], folder: Path, steps: int = 2
) -> list[tuple[torch.Tensor, dict[str, float]]]:
    """Train a model in as many processes as there are batches, each on its own batch, with DDP over gloo on the CPU.

    Args:
        build: makes the model; a function of a module, or a `functools.partial` of one.
        batches: of each process.
        folder: for files between the processes.
        steps: of SGD.

    Returns:
        Of each process all parameters after the last step, flattened into one vector, and its last losses.

    Raises:
        TimeoutError: a process hangs.
    """
    arguments = (len(batches), build, list(batches), str(folder), steps)
    context = multiprocessing.spawn(_train_on_rank, arguments, nprocs=len(batches), join=False)
    try:
        # A join ends with the first process that does.
        if not any(context.join(timeout=400) for _ in batches):
            raise TimeoutError("a process hangs")
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(batches))]


def _train_on_rank(
    rank: int, count: int, build: Callable[[], nn.Module], batches: list[list[dict]], folder: str, steps: int
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
    model = build()
    train = _train_sides if isinstance(model, AdversarialStage) else _train_whole
    losses = train(model, torch.optim.SGD(model.parameters(), 1e-3), batches[rank], steps)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.save((weights, {name: value.item() for name, value in losses.items()}), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _train_whole(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: list[dict], steps: int
) -> dict[str, torch.Tensor]:
    model = DistributedDataParallel(model)
    for _ in range(steps):
        with EventStorage():
            losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return losses


def _train_sides(
    model: AdversarialStage, optimizer: torch.optim.Optimizer, batch: list[dict], steps: int
) -> dict[str, torch.Tensor]:
    AdversarialTrainer(model, itertools.repeat(batch), optimizer, distributed=DistributedDataParallel).train(0, steps)
    return model(batch)
