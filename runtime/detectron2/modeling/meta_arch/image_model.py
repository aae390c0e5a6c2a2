"""What all models share at their ends: normalised, padded batches in; outputs at the requested size out."""

import numpy as np
import torch
from torch import nn

from detectron2.layers import move_device_like
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage

from ..postprocessing import detector_postprocess

MAX_DRAWN_BOXES = 20


class ImageModel(nn.Module):
    """Base of models that take a list of dicts with an "image" each, (C, H, W), and have a `backbone`.

    The pixel statistics are buffers outside the state dict: they follow the model to its device, and name it.
    """

    def _register_pixel_statistics(self, pixel_mean, pixel_std) -> None:
        mean, std = (torch.tensor(list(values)).view(-1, 1, 1) for values in (pixel_mean, pixel_std))
        assert mean.shape == std.shape, f"pixel_mean {pixel_mean} and pixel_std {pixel_std} differ in length."
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _move_to_current_device(self, x):
        return move_device_like(x, self.pixel_mean)

    def preprocess_image(self, batched_inputs: list[dict[str, torch.Tensor]]) -> ImageList:
        """Move the images to the model's device, normalise them, and pad them into one batch."""
        normalized = []
        for item in batched_inputs:
            image = self._move_to_current_device(item["image"])
            normalized.append((image - self.pixel_mean) / self.pixel_std)
        return ImageList.from_tensors(
            normalized,
            size_divisibility=self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def _instances_on_device(self, batched_inputs: list[dict], key: str) -> list[Instances]:
        return [item[key].to(self.device) for item in batched_inputs]


def resize_outputs(
    outputs: list[Instances],
    batched_inputs: list[dict],
    image_sizes: list[tuple[int, int]],
    key: str = "instances",
) -> list[dict[str, Instances]]:
    """Rescale each image's output to the "height" and "width" of its input, by default the size of the image."""
    resized = []
    for output, item, (height, width) in zip(outputs, batched_inputs, image_sizes, strict=True):
        size = item.get("height", height), item.get("width", width)
        resized.append({key: detector_postprocess(output, *size)})
    return resized


def put_box_comparison(batched_input: dict, boxes: np.ndarray, input_format: str | None, name: str, axis: int) -> None:
    """Put a picture into the event storage: an image with its ground-truth boxes, and again with predicted ones.

    Args:
        batched_input: one input with "image" and "instances".
        boxes: (N, 4) xyxy absolute pixels of the image; the first 20 are drawn.
        input_format: meaning of the image's channels, e.g. "BGR".
        name: name of the picture.
        axis: 0 puts the second image below, 1 to the right.
    """
    # Drawing pulls in matplotlib and the data package: only where pictures are asked for.
    from detectron2.data.detection_utils import convert_image_to_rgb
    from detectron2.utils.visualizer import Visualizer

    image = convert_image_to_rgb(batched_input["image"].permute(1, 2, 0), input_format)
    drawn = [
        Visualizer(image, None).overlay_instances(boxes=shown).get_image()
        for shown in (batched_input["instances"].gt_boxes, boxes[:MAX_DRAWN_BOXES])
    ]
    get_event_storage().put_image(name, np.concatenate(drawn, axis=axis).transpose(2, 0, 1))
