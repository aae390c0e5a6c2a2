"""What models have in common: those around a detector, and those whose masks come from predicted kernels."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import BitMasks, ImageList, Instances, PolygonMasks
from torch import nn

from instseg_d2.data.errors import DatasetError


def ground_truth(batched_inputs: Sequence[dict], device: torch.device) -> list[Instances]:
    """The `instances` of each image, on the device."""
    return [item["instances"].to(device) for item in batched_inputs]


def ground_truth_masks(truth: Instances) -> torch.Tensor:
    """The masks of an image's objects (M, height, width) bool, on the device of the boxes.

    Raises:
        DatasetError: there are objects, but no masks.
    """
    if len(truth) == 0:
        return torch.zeros(0, *truth.image_size, dtype=torch.bool, device=truth.gt_boxes.device)
    if not truth.has("gt_masks"):
        raise DatasetError(
            f"an image of {truth.image_size} (height, width) with {len(truth)} objects has no ground-truth masks: let "
            "the mapper give them (use_instance_mask=True), or train with a supervision by boxes"
        )
    masks = truth.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *truth.image_size)
    return masks.tensor.to(truth.gt_boxes.device, torch.bool)


def visible_masks(truth: Instances) -> torch.Tensor:
    """(M,) bool: the objects of an image whose mask a loss may look at; all, unless `gt_has_mask` says otherwise."""
    if truth.has("gt_has_mask"):
        return truth.gt_has_mask
    return torch.ones(len(truth), dtype=torch.bool, device=truth.gt_boxes.device)


def output_sizes(batched_inputs: Sequence[dict], images: ImageList) -> list[tuple[int, int]]:
    """(height, width) that the predictions of each image are for: as the input says, else that of the network's."""
    return [
        (item.get("height", height), item.get("width", width))
        for item, (height, width) in zip(batched_inputs, images.image_sizes, strict=True)
    ]


class AroundDetector(nn.Module):
    """A model that has a dense detector, and shares its backbone and its way to prepare images.

    Args:
        detector: the detector.
        input_format: meaning of the image channels, "BGR" or "RGB".
    """

    def __init__(self, *, detector: DenseDetector, input_format: str):
        super().__init__()
        self.detector = detector
        self.input_format = input_format

    @property
    def device(self) -> torch.device:
        """Where the model is; inputs are moved there."""
        return self.detector.device

    @property
    def backbone(self) -> nn.Module:
        """The detector's backbone, which the masks share."""
        return self.detector.backbone

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise the images and pad them into one batch, on the model's device."""
        return self.detector.preprocess_image(batched_inputs)


class KernelDetector(DenseDetector):
    """Cells predict classes and kernels; a kernel, applied to the features of a mask branch, draws the mask.

    Args:
        head: of the cells.
        head_in_features: its levels, finest first.
        mask_branch: makes the features that kernels are applied to.
        mask_in_features: its levels, finest first.
        num_classes: K.
        kwargs: for detectron2's `DenseDetector`: `backbone`, `pixel_mean`, `pixel_std`.
    """

    def __init__(
        self,
        *,
        head: nn.Module,
        head_in_features: Sequence[str],
        mask_branch: nn.Module,
        mask_in_features: Sequence[str],
        num_classes: int,
        **kwargs,
    ):
        super().__init__(head=head, head_in_features=list(head_in_features), **kwargs)
        self.mask_branch = mask_branch
        self.mask_in_features = list(mask_in_features)
        self.num_classes = num_classes

    def predict(self, features: dict[str, torch.Tensor]) -> Any:
        """Run the dense branches on the backbone's features."""
        raise NotImplementedError

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict] | list[Instances]:
        """Detect and segment, or segment given boxes."""
        raise NotImplementedError

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Compute losses (training) or predictions (inference).

        Args:
            batched_inputs: one dict per image: `image` (C, H, W); in training `instances`, the ground truth; in
                inference optionally `height` and `width`, the size of the output.

        Returns:
            in training the losses of `forward_training`; in inference per image `{"instances": ...}` with
            `pred_boxes`, `scores`, `pred_classes` and `pred_masks` (R, height, width) bool.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        truth = ground_truth(batched_inputs, self.device)
        return self.forward_training(images, features, self.predict(features), truth)
