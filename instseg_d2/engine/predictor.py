"""Prediction on single images and batches, with the preprocessing that the recipe was trained for."""

import os
from collections.abc import Sequence

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import Metadata, MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

from instseg_d2.checkpoint import load_weights
from instseg_d2.model_zoo import get_config

from .fusion import fuse_for_inference
from .overrides import SettingError, apply_overrides
from .run import resolve_device


class Predictor:
    """Called like detectron2's `DefaultPredictor`: `predictor(bgr_uint8)["instances"]`.

    Args:
        model: takes detectron2's batched inputs; it is put into evaluation mode.
        augmentations: what test images go through, usually a resize; results are in pixels of the original image.
        input_format: channel order of the model, `"BGR"` or `"RGB"`; images are always given in BGR, as OpenCV
            reads them.
        metadata: names and colours of the classes, for drawing.
        amp_dtype: run under autocast with this type; None stays in fp32.
    """

    def __init__(
        self,
        model: nn.Module,
        augmentations: Sequence[T.Augmentation] = (),
        *,
        input_format: str = "BGR",
        metadata: Metadata | None = None,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        if input_format not in ("BGR", "RGB"):
            raise ValueError(f"input_format must be 'BGR' or 'RGB', not '{input_format}'")
        self.model = model.eval()
        self.augmentations = T.AugmentationList(list(augmentations))
        self.input_format = input_format
        self.metadata = metadata
        self.amp_dtype = amp_dtype

    @classmethod
    def from_config(
        cls,
        name_or_path: str | os.PathLike,
        *,
        weights: str,
        overrides: Sequence[str] = (),
        device: str = "auto",
        amp_dtype: torch.dtype | None = None,
        fuse: bool = True,
    ) -> "Predictor":
        """Build the predictor of a recipe.

        Args:
            name_or_path: a config file or a name from `model_zoo.list_configs()`.
            weights: a checkpoint that holds every parameter of the model.
            overrides: `key=value` strings, as on the command line of `tools/train_net.py`.
            device: `"auto"`, `"cpu"`, `"cuda"`, ...
            amp_dtype: see the class.
            fuse: run the model as `fuse_for_inference` leaves it: faster, equal but for rounding.

        Raises:
            FileNotFoundError: no such recipe or checkpoint.
            CheckpointMismatchError: the checkpoint belongs to another model.
        """
        cfg = apply_overrides(get_config(name_or_path), overrides)
        model = instantiate(cfg.model).to(resolve_device(device))
        load_weights(model, weights)
        return cls(
            fuse_for_inference(model) if fuse else model,
            instantiate(cfg.dataloader.test.mapper.augmentations),
            input_format=cfg.model.get("input_format", "BGR"),
            metadata=MetadataCatalog.get(cfg.dataloader.test.dataset.names),
            amp_dtype=amp_dtype,
        )

    def __call__(self, image: np.ndarray) -> dict:
        """Predict one image.

        Args:
            image: (H, W, 3) uint8, BGR.

        Returns:
            The model's output for the image, such as `{"instances": Instances}` with `pred_boxes` (xyxy pixels),
            `scores`, `pred_classes` and `pred_masks` (N, H, W) bool.

        Raises:
            ValueError: the image is not of that form.
        """
        return self.predict_batch([image])[0]

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[np.ndarray]) -> list[dict]:
        """Predict several images, of any sizes, in one pass; images and outputs as in `__call__`."""
        inputs = [self.preprocess(image) for image in images]
        with self.autocast():
            return self.model(inputs)

    @torch.inference_mode()
    def segment_batch(
        self, images: Sequence[np.ndarray], boxes: Sequence[torch.Tensor], classes: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Segment the objects in given boxes; nothing is detected.

        Args:
            images: as in `__call__`.
            boxes: per image (N, 4) float32 xyxy in pixels of the image, inside of it and not empty.
            classes: per image (N,) int64, class indices of the model.

        Returns:
            per image the masks (N, H, W) bool of the boxes in their order; they may be empty, or leave their box.

        Raises:
            SettingError: the model cannot be given boxes, or predicts no masks.
        """
        name = type(self.model).__name__
        if not hasattr(self.model, "inference"):
            raise SettingError(
                f"{name} has no inference(..., detected_instances=...) to give boxes to; use another model"
            )
        inputs = [self.preprocess(image) for image in images]
        given = [_as_detections(*entry) for entry in zip(inputs, boxes, classes, strict=True)]
        with self.autocast():
            outputs = self.model.inference(inputs, detected_instances=given)
        found = [output["instances"] for output in outputs]
        for instances, expected in zip(found, boxes, strict=True):
            if not instances.has("pred_masks") or len(instances) != len(expected):
                raise SettingError(
                    f"{name} was given {len(expected)} boxes and returned {len(instances)} instances with "
                    f"{', '.join(instances.get_fields())}; use a model that returns 'pred_masks' for each box"
                )
        return [instances.pred_masks.bool() for instances in found]

    def autocast(self) -> torch.autocast:
        """The context that the model runs in, see `amp_dtype`."""
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def preprocess(self, image: np.ndarray) -> dict:
        """The model's input for an image (H, W, 3) uint8 BGR: `image`, and the `height` and `width` of the output.

        Raises:
            ValueError: the image is not of that form.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"an image must be an (H, W, 3) uint8 array in BGR, not {found}")
        height, width = image.shape[:2]
        augmented = T.AugInput(image[:, :, ::-1] if self.input_format == "RGB" else image)
        self.augmentations(augmented)
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        return {"image": torch.from_numpy(pixels), "height": height, "width": width}


def _as_detections(item: dict, boxes: torch.Tensor, classes: torch.Tensor) -> Instances:
    """Boxes of an image as detections in the pixels of the network's input."""
    height, width = item["image"].shape[-2:]
    scaled = Boxes(boxes.float().clone())
    scaled.scale(width / item["width"], height / item["height"])
    scaled.clip((height, width))
    return Instances((height, width), pred_boxes=scaled, pred_classes=classes, scores=torch.ones(len(boxes)))
