"""Online weakly-supervised copy-paste (SIM, arXiv:2303.08578): objects cut out by pseudo masks, put into other images.

What is covered by a paste is known exactly, so a pasted object has a mask that may be trusted where it overlaps others,
which boxes alone never say.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn
from torch.nn import functional as F

from instseg_d2.data.fields import filled_boxes
from instseg_d2.layers.mask_boxes import tight_boxes

from .instance_bank import InstanceBank, StoredImage


class CopyPaste(nn.Module):
    """Pastes objects of earlier images into those of a batch, and remembers the batch for later ones.

    An object keeps the place it had in its own image, as that has the surroundings and the size that belong together:
    no flip, no resizing, no soft edge. What of it lies beyond the other image is cut off. All choices come from torch's
    generator of the CPU.

    It has no parameters, no buffers and nothing to save; see `InstanceBank` for what happens after a resume. Where the
    paper is silent, the values of the released code hold, except that no object is drawn twice for one image.

    Args:
        bank: of earlier images.
        probability: that a batch is pasted into, all of its images or none.
        share: of the objects of the stored image, how many are pasted, rounded down to `number`.
        number: least and greatest number of objects per image, as far as the stored image has so many.
        score_power: objects are drawn with a probability proportional to this power of their score.
        least_visible: an object of the image stays while more than this share of its box can still be seen; 0 removes
            only those that are covered wholly, as the paper does.
        least_images: that the bank must hold before anything is pasted; None waits until it is full.

    Raises:
        ValueError: a value is out of bounds.
    """

    def __init__(
        self,
        *,
        bank: InstanceBank,
        probability: float = 0.5,
        share: float = 0.25,
        number: Sequence[int] = (1, 3),
        score_power: float = 3.0,
        least_visible: float = 0.0,
        least_images: int | None = None,
    ):
        super().__init__()
        least, most = number
        least_images = bank.capacity if least_images is None else least_images
        for holds, text in (
            (0 <= probability <= 1, f"probability={probability}: must be in [0, 1]"),
            (0 <= share <= 1, f"share={share}: must be in [0, 1]"),
            (1 <= least <= most, f"number={list(number)}: must be two whole numbers in order, 1 or more"),
            (0 <= least_visible < 1, f"least_visible={least_visible}: must be in [0, 1)"),
            (1 <= least_images <= bank.capacity, f"least_images={least_images}: must be in [1, {bank.capacity}]"),
        ):
            if not holds:
                raise ValueError(text)
        self.bank = bank
        self.probability = probability
        self.share = share
        self.number = (least, most)
        self.score_power = score_power
        self.least_visible = least_visible
        self.least_images = least_images

    def forward(
        self, images: Sequence[torch.Tensor], truth: Sequence[Instances], pseudo: Sequence[Instances]
    ) -> tuple[list[torch.Tensor], list[Instances]]:
        """Paste objects of earlier batches, then remember this batch: no image is pasted into itself.

        Args:
            images: per image (C, h_i, w_i) uint8, as the loader gives them; not changed.
            truth: per image the ground truth with `gt_boxes` and `gt_classes`; not changed, and nothing else of it is
                looked at.
            pseudo: per image the objects that may be pasted later, see `InstanceBank.add` and `confident_objects`.

        Returns:
            see `paste`.
        """
        result = self.paste(images, truth)
        self.remember(images, pseudo)
        return result

    def remember(self, images: Sequence[torch.Tensor], pseudo: Sequence[Instances]) -> None:
        """Add images to the bank; for a model that has the masks of what it trains on only after the pasting."""
        for image, objects in zip(images, pseudo, strict=True):
            self.bank.add(image, objects)

    @torch.no_grad()
    def paste(
        self, images: Sequence[torch.Tensor], truth: Sequence[Instances]
    ) -> tuple[list[torch.Tensor], list[Instances]]:
        """Paste objects of the bank, if chance says so and the bank holds enough.

        Returns:
            New images of the same shapes, and per image new ground truth, first the objects that were there, then the
            pasted ones, with the same fields whether anything was pasted or not:
            `gt_boxes` xyxy pixels; those of partly covered objects shrink to what can still be seen, those of pasted
            ones are tight around what is pasted. `gt_classes`. `gt_masks` BitMasks: the mask of a pasted object; of
            another one its box filled without what is pasted over it. `gt_has_mask` and `gt_pasted` (N,) bool: true
            for pasted objects alone.

        Raises:
            ValueError: the ground truth belongs to an image of another size.
        """
        for image, x in zip(images, truth, strict=True):
            if tuple(x.image_size) != tuple(image.shape[-2:]):
                raise ValueError(f"ground truth of a {tuple(x.image_size)} image for one of {tuple(image.shape)}")
        if len(self.bank) < self.least_images or torch.rand(()) >= self.probability:
            return [image.clone() for image in images], [_seen(x) for x in truth]
        pairs = [self._paste_into(image, x) for image, x in zip(images, truth, strict=True)]
        return [image for image, _ in pairs], [x for _, x in pairs]

    def _paste_into(self, image: torch.Tensor, truth: Instances) -> tuple[torch.Tensor, Instances]:
        stored = self.bank.draw()
        rows = self._choose(stored)
        masks = _fit(stored.masks(rows), truth.image_size)
        # Where masks overlap, the pixel belongs to the first, the surest one.
        masks &= masks.cumsum(dim=0) == 1
        there = masks.flatten(1).any(dim=1)
        masks, classes = masks[there], stored.classes[rows][there]
        covered = masks.any(dim=0)
        result = image.clone()
        height, width = (min(sides) for sides in zip(stored.image.shape[1:], truth.image_size, strict=True))
        part = result[:, :height, :width]
        source = stored.image[:, :height, :width].to(part)
        part.copy_(torch.where(covered[:height, :width].to(part.device), source, part))
        return result, Instances.cat([self._behind(truth, covered), _pasted(truth, masks, classes)])

    def _choose(self, stored: StoredImage) -> list[int]:
        """Objects to paste, the surest first."""
        least, most = self.number
        count = min(max(int(self.share * len(stored)), least), most, len(stored))
        # The clamp keeps powers of tiny scores from vanishing: as many objects as are drawn need a chance.
        chances = (stored.scores**self.score_power).clamp(min=torch.finfo(torch.float64).tiny)
        drawn = torch.multinomial(chances, count)
        return drawn[stored.scores[drawn].argsort(descending=True, stable=True)].tolist()

    def _behind(self, truth: Instances, covered: torch.Tensor) -> Instances:
        """The objects that were there, as far as they can still be seen."""
        result = _seen(truth)
        filled, boxes = result.gt_masks.tensor, result.gt_boxes.tensor
        visible = filled & ~covered.to(filled.device)
        before, after = filled.sum(dim=(1, 2)), visible.sum(dim=(1, 2))
        touched = after < before
        tight = tight_boxes(visible).to(boxes)
        # Of a touched box the sides that were not reached stay where they are, also between two pixels.
        shrunk = torch.cat([boxes[:, :2].maximum(tight[:, :2]), boxes[:, 2:].minimum(tight[:, 2:])], dim=1)
        result.gt_boxes = Boxes(torch.where(touched[:, None], shrunk, boxes))
        result.gt_masks = BitMasks(visible)
        # A strip that is thinner than a pixel comes of rounding and is nothing to find.
        wide = (shrunk[:, 2:] - shrunk[:, :2] >= 1).all(dim=1)
        return result[~touched | (wide & (after > self.least_visible * before))]


def _seen(truth: Instances) -> Instances:
    """A copy of boxes and classes, with filled boxes as masks that are not to be trusted."""
    boxes = truth.gt_boxes.tensor
    masks = filled_boxes(boxes.cpu(), truth.image_size).to(boxes.device)
    return _objects(truth.image_size, boxes.clone(), truth.gt_classes.clone(), masks, pasted=False)


def _pasted(truth: Instances, masks: torch.Tensor, classes: torch.Tensor) -> Instances:
    """Pasted objects, of the types and on the device of the truth they join."""
    boxes = tight_boxes(masks).to(truth.gt_boxes.tensor)
    masks = masks.to(boxes.device)
    return _objects(truth.image_size, boxes, classes.to(truth.gt_classes), masks, pasted=True)


def _objects(
    size: tuple[int, int], boxes: torch.Tensor, classes: torch.Tensor, masks: torch.Tensor, *, pasted: bool
) -> Instances:
    flags = torch.full((len(boxes),), pasted, device=boxes.device)
    return Instances(
        size,
        gt_boxes=Boxes(boxes),
        gt_classes=classes,
        gt_masks=BitMasks(masks),
        gt_has_mask=flags,
        gt_pasted=flags.clone(),
    )


def _fit(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks (n, H, W) on a canvas (height, width), both aligned at the upper left corner."""
    masks = masks[:, : size[0], : size[1]]
    return F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))
