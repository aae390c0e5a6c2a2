"""The memory of online copy-paste (SIM, arXiv:2303.08578): the latest images with the masks found in them."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from instseg_d2.data.fields import filled_boxes
from instseg_d2.data.run_lengths import encode_mask


def confident_objects(truth: Instances, probabilities: torch.Tensor, *, threshold: float = 0.7) -> Instances:
    """Make masks to paste by from a model's soft masks of the true objects.

    Args:
        truth: of one image, with `gt_boxes` and `gt_classes`.
        probabilities: (N, H, W) in [0, 1], of each object in the pixels of the image.
        threshold: a mask is what lies above it, inside of the box.

    Returns:
        Instances of the objects that have such a pixel: `gt_boxes`, `gt_classes`, `pseudo_masks` (M, H, W) bool, and
        `scores` (M,), the sum of the probabilities in the mask divided by its pixels and one more, so that a mask of
        few pixels has a lower score.

    Raises:
        ValueError: the probabilities are not one map of the image per object.
    """
    if tuple(probabilities.shape) != (len(truth), *truth.image_size):
        raise ValueError(
            f"probabilities have shape {tuple(probabilities.shape)}; {len(truth)} objects of a "
            f"{tuple(truth.image_size)} image need {(len(truth), *truth.image_size)}"
        )
    boxes = truth.gt_boxes.tensor
    inside = filled_boxes(boxes.cpu(), truth.image_size).to(probabilities.device)
    masks = (probabilities > threshold) & inside
    pixels = masks.sum(dim=(1, 2))
    scores = (probabilities.float() * masks).sum(dim=(1, 2)) / (pixels + 1)
    found = pixels > 0
    rows = found.to(boxes.device)
    return Instances(
        truth.image_size,
        gt_boxes=Boxes(boxes[rows]),
        gt_classes=truth.gt_classes[rows],
        scores=scores[found],
        pseudo_masks=masks[found],
    )


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image and the objects that can be cut out of it.

    Attributes:
        image: (C, H, W) uint8, on the CPU.
        run_lengths: the mask of each object, compressed as COCO does.
        classes: (N,) int64.
        scores: (N,) float64, positive.
    """

    image: torch.Tensor
    run_lengths: tuple[dict[str, Any], ...]
    classes: torch.Tensor
    scores: torch.Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def masks(self, rows: list[int]) -> torch.Tensor:
        """Masks of some objects, (len(rows), H, W) bool, on the CPU."""
        planes = mask_util.decode([self.run_lengths[row] for row in rows])
        return torch.from_numpy(np.ascontiguousarray(planes.transpose(2, 0, 1))).bool()


class InstanceBank:
    """First in, first out: the latest images that had an object with a mask, in the memory of the CPU.

    Nothing in it is shared with what was given. It belongs to its process and is no part of checkpoints: pixels of a
    hundred images are not state worth keeping. After a resume it is empty and fills again, and masks of the restored
    model take the place of those that were lost.

    Args:
        capacity: images at most. 100 of 800 x 1333 pixels take about 320 MB; masks are run lengths and add little.

    Raises:
        ValueError: `capacity` is not positive.
    """

    def __init__(self, *, capacity: int = 100):
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: a bank holds at least one image")
        self.capacity = capacity
        self._entries: deque[StoredImage] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._entries)

    @torch.no_grad()
    def add(self, image: torch.Tensor, objects: Instances) -> bool:
        """Remember an image, and forget the oldest one when the bank is full.

        Args:
            image: (C, H, W) uint8.
            objects: of this image, with `gt_classes`, `scores` (N,) and `pseudo_masks` (N, H, W) bool. Those without a
                pixel or with a score of 0 are left out.

        Returns:
            whether there was an object to remember; without any the image is not kept.

        Raises:
            ValueError: the image is not uint8, or the masks are of another size.
        """
        if image.dtype != torch.uint8:
            raise ValueError(f"the bank keeps images as the loader gives them, uint8, not {image.dtype}")
        masks = objects.pseudo_masks
        if tuple(masks.shape) != (len(objects), *image.shape[1:]):
            raise ValueError(f"masks of shape {tuple(masks.shape)} do not belong to an image {tuple(image.shape)}")
        scores = objects.scores.detach().to("cpu", torch.float64)
        usable = masks.flatten(1).any(dim=1).cpu() & (scores > 0) if len(objects) else torch.zeros(0, dtype=torch.bool)
        if not usable.any():
            return False
        self._entries.append(
            StoredImage(
                image=image.detach().cpu().clone(memory_format=torch.contiguous_format),
                run_lengths=tuple(encode_mask(mask) for mask in masks[usable.to(masks.device)].cpu().numpy()),
                classes=objects.gt_classes.cpu()[usable],
                scores=scores[usable],
            )
        )
        return True

    def draw(self) -> StoredImage:
        """One of the images, each as likely as any other, by torch's generator.

        Raises:
            IndexError: the bank is empty.
        """
        if not self._entries:
            raise IndexError("the bank is empty")
        return self._entries[int(torch.randint(len(self._entries), ()))]
