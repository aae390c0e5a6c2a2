"""PEP, last step: masks from descriptors (Sec. 3.5, eq. 6 and 7)."""

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.convolution import conv_tower
from instseg_d2.layers.coordinates import append_coordinates
from instseg_d2.layers.dynamic_conv import convolve_shared
from instseg_d2.layers.mask_boxes import tight_boxes
from instseg_d2.layers.matrix_nms import matrix_nms

from ..solov2.decoding import GridDecoder
from ..solov2.head import initialize_convs


class LevelFeatures(nn.Module):
    """A general feature for each stage, as the paper's index says: four 3x3 convolutions, with coordinates.

    The other reading, one map for all stages, is `SOLOv2MaskBranch`. The coordinates are ours: without them a
    descriptor could not tell an object from its twin.

    Args:
        input_shape: `channels` and `stride` of the levels, finest first.
        conv_dims: of the convolutions.
        norm: of the convolutions.
        shared_levels: all stages have the same weights.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        conv_dims: Sequence[int] = (256, 256, 256, 256),
        norm: str = "GN",
        shared_levels: bool = True,
    ):
        super().__init__()
        shapes = list(input_shape)
        self.stride = shapes[0].stride
        self.towers = nn.ModuleList(
            conv_tower(shape.channels + 2, list(conv_dims), norm=norm)
            for shape in (shapes[:1] if shared_levels else shapes)
        )
        initialize_convs(self)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Per level (N, C, H_l, W_l) to (N, D, H_l, W_l)."""
        towers = list(self.towers) * (len(features) if len(self.towers) == 1 else 1)
        return [convolve(append_coordinates(x)) for convolve, x in zip(towers, features, strict=True)]


def mask_logits(general: Sequence[torch.Tensor], image: int, nodes: Instances) -> torch.Tensor:
    """Masks of the descriptors of one image.

    Args:
        general: one map (N, D, h, w) for all descriptors; or one a level, finest first: the masks of coarser levels
            are enlarged to the finest.
        image: its index in the batch.
        nodes: with `descriptors` (n, D) and `fpn_levels` (n,).

    Returns:
        (n, h, w) logits, over the padded input.
    """
    if len(general) == 1:
        return _convolve(general[0], image, nodes.descriptors)
    size = general[0].shape[-2:]
    logits = nodes.descriptors.new_zeros(len(nodes), *size, dtype=torch.float32)
    for level, maps in enumerate(general):
        rows = (nodes.fpn_levels == level).nonzero(as_tuple=True)[0]
        own = _convolve(maps, image, nodes.descriptors[rows]).float()[:, None]
        if len(rows) and own.shape[-2:] != size:
            own = F.interpolate(own, size=size, mode="bilinear", align_corners=False)
        # Without a descriptor of this level its maps still become part of the graph, as DDP asks for.
        logits = logits.index_copy(0, rows, own[:, 0]) if len(rows) else logits + own.sum()
    return logits


def _convolve(maps: torch.Tensor, image: int, descriptors: torch.Tensor) -> torch.Tensor:
    return convolve_shared(maps[image, None], descriptors[:, None], [len(descriptors)])[:, 0]


class DescriptorDecoder(GridDecoder):
    """From purified descriptors to instances.

    Args:
        matrix_nms: whether scores sink where masks of a class overlap; None: only in a model without purifying, which
            has nothing else against duplicates.
        kwargs: of `GridDecoder`: `mask_thresh`, `nms_kernel`, `nms_sigma`, `nms_score_thresh` (with matrix NMS or
            without), `max_per_image`.
    """

    def __init__(self, *, matrix_nms: bool | None = None, **kwargs):
        super().__init__(**kwargs)
        self.matrix_nms = matrix_nms

    @torch.no_grad()
    def decode_nodes(
        self, nodes: Instances, masks: torch.Tensor, *, min_areas: torch.Tensor, stride: int, purified: bool
    ) -> Instances:
        """Score masks, and leave out what is small, unlikely or double.

        Args:
            nodes: n descriptors of an image, with `scores` and `pred_classes`.
            masks: (n, h, w) their probabilities, over the padded input.
            min_areas: (n,); a mask has more pixels of the map than this.
            stride: of the map.
            purified: the model has merged descriptors of the same object.

        Returns:
            best first, `scores` (that of the node times the mean probability in the mask), `pred_classes`,
            `pred_masks` (R, h, w), probabilities, and `pred_boxes`, tight up to the stride.
        """
        inside = masks > self.mask_thresh
        areas = inside.sum(dim=(1, 2))
        scores = nodes.scores.float() * (masks * inside).sum(dim=(1, 2)) / areas.clamp(min=1)
        large = (areas > min_areas).nonzero(as_tuple=True)[0]
        scores, classes, inside = scores[large], nodes.pred_classes[large], inside[large]
        if not purified if self.matrix_nms is None else self.matrix_nms:
            scores = matrix_nms(inside, classes, scores, kernel=self.nms_kernel, sigma=self.nms_sigma)
        best = scores.argsort(descending=True, stable=True)[: self.max_per_image]
        best = best[scores[best] >= self.nms_score_thresh]
        boxes = Boxes(tight_boxes(inside[best]) * stride)
        boxes.clip(nodes.image_size)
        return Instances(
            nodes.image_size,
            scores=scores[best],
            pred_classes=classes[best],
            pred_masks=masks[large[best]],
            pred_boxes=boxes,
        )
