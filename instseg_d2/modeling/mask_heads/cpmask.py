"""CPMask's mask head: boundaries and affinities, which carry over to categories without masks (thesis chapter 4)."""

import math

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances

from instseg_d2.layers.affinity import AFFINITY_FORMS, AffinityParsing, affinity_loss
from instseg_d2.layers.contours import mask_contours
from instseg_d2.layers.mask_losses import mask_bce

from .base import MaskHead, attach
from .parts import Upsampling, convolutions, predictor
from .targets import crop_targets


class CPMaskHead(MaskHead):
    """Boundary parsing, four convolutions, affinity parsing; without both modules, the head of Mask R-CNN.

    X are the pooled features. Boundary parsing F_B (eq. 4.1) adds its features to them and, upsampled, predicts the
    boundary; C = G(X + F_B(X)) (eq. 4.2); affinity parsing gives C + C~ (eq. 4.3 to 4.5); upsampled, it predicts the
    mask (eq. 4.6). What the thesis leaves open are the arguments. All three losses come from masks, so regions whose
    mask is hidden (`gt_has_mask`) count in none of them.

    Args:
        input_shape: its channels are those of X.
        num_classes: mask channels; the method is class-agnostic, 1.
        conv_dim: c, channels of every layer. Boundary parsing adds c channels to X, which then must have as many.
        num_convs: 3x3 convolutions of G.
        num_boundary_convs: those of F_B.
        boundary: False leaves the boundary-parsing module out.
        affinity: False leaves the affinity-parsing module out.
        embed_dim: channels of theta and phi; None for c.
        scale: divide affinities by the square root of `embed_dim` before the softmax.
        affinity_form: how eq. 4.4 is read, see `affinity_losses`.
        loss_weight: of `loss_mask`.
        boundary_weight: of `loss_boundary`; 0 keeps the module and leaves its prediction and loss out.
        affinity_weight: of `loss_affinity`; 0 keeps the module and leaves its loss out.
        keep_aux: in inference also give `pred_boundaries` (R, 1, M, M), probabilities relative to the box, and
            `pred_pixel_affinities` (R, H, W, H, W): [r, i, j] are the affinities of the pixel in row i and column j of
            the H x W grid of region r to all pixels of it, which sum to 1. 15 MB for 100 regions of 14 x 14.

    Raises:
        ValueError: settings that contradict each other.
    """

    def __init__(
        self,
        *,
        input_shape: ShapeSpec,
        num_classes: int = 1,
        conv_dim: int = 256,
        num_convs: int = 4,
        num_boundary_convs: int = 4,
        boundary: bool = True,
        affinity: bool = True,
        embed_dim: int | None = None,
        scale: bool = True,
        affinity_form: str = "rows",
        loss_weight: float = 1.0,
        boundary_weight: float = 1.0,
        affinity_weight: float = 1.0,
        keep_aux: bool = False,
    ):
        super().__init__(loss_weight=loss_weight)
        if boundary and input_shape.channels != conv_dim:
            raise ValueError(
                f"boundary parsing adds {conv_dim} channels (conv_dim) to {input_shape.channels} of the input: make "
                "them equal"
            )
        if affinity_form not in AFFINITY_FORMS:
            raise ValueError(f"affinity_form={affinity_form!r}: must be one of {AFFINITY_FORMS}")
        self.boundary_convs = convolutions(conv_dim, conv_dim, num_boundary_convs) if boundary else None
        self.convs = convolutions(input_shape.channels, conv_dim, num_convs)
        self.affinity = AffinityParsing(conv_dim, embed_dim=embed_dim, scale=scale) if affinity else None
        self.upsampling, self.predictor = Upsampling(conv_dim), predictor(conv_dim, num_classes)
        # A part whose weight is 0 would have parameters without a gradient, which DDP does not allow.
        self.boundary_weight = boundary_weight if boundary else 0
        self.affinity_weight = affinity_weight if affinity else 0
        if self.boundary_weight:
            self.boundary_upsampling, self.boundary_predictor = Upsampling(conv_dim), predictor(conv_dim, 1)
        self.affinity_form = affinity_form
        self.keep_aux = keep_aux

    def layers(self, x: torch.Tensor, instances: list[Instances]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `MaskHead.layers`; from (R, C, H, W) to features and logits of side 2H.

        The logits are `masks` and, where a loss or `keep_aux` asks for them, `boundaries` (R, 1, 2H, 2W) and
        `affinities` (R, 1, HW, HW), those before the softmax.
        """
        logits = {}
        if self.boundary_convs is not None:
            boundary = self.boundary_convs(x)
            x = x + boundary
            if self.boundary_weight and (self.training or self.keep_aux):
                logits["boundaries"] = self.boundary_predictor(self.boundary_upsampling(boundary))
        features = self.convs(x)
        if self.affinity is not None:
            features, affinities = self.affinity(features)
            if (self.training and self.affinity_weight) or self.keep_aux:
                logits["affinities"] = affinities[:, None]
        features = self.upsampling(features)
        logits["masks"] = self.predictor(features)
        return features, logits

    @property
    def loss_names(self) -> list[str]:
        weights = {"loss_boundary": self.boundary_weight, "loss_affinity": self.affinity_weight}
        return ["loss_mask", *(name for name, weight in weights.items() if weight)]

    def map_losses(
        self, maps: dict[str, torch.Tensor], targets: torch.Tensor, instances: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """Compute `loss_mask` and, as far as their weights are not 0, `loss_boundary` and `loss_affinity`.

        Boundaries are drawn from the cropped masks by `mask_contours`; the pixels of the object among those of the
        affinities are its mask, cropped to their grid.

        Args:
            maps: see `MaskHead.map_losses`.
            targets: see there.
            instances: see there.
        """
        losses = super().map_losses(maps, targets, instances)
        if self.boundary_weight:
            losses["loss_boundary"] = self.boundary_weight * mask_bce(maps["boundaries"], mask_contours(targets))
        if self.affinity_weight:
            affinities = maps["affinities"]
            foreground = crop_targets(instances, math.isqrt(affinities.shape[-1])).flatten(1)
            losses["loss_affinity"] = self.affinity_weight * affinity_loss(affinities, foreground, self.affinity_form)
        return losses

    def inference(self, logits: dict[str, torch.Tensor], instances: list[Instances]) -> list[Instances]:
        """Attach `pred_masks`, and with `keep_aux` boundaries and affinities; see `MaskHead.inference`."""
        instances = super().inference(logits, instances)
        if "boundaries" in logits:
            attach(instances, "pred_boundaries", logits["boundaries"].float().sigmoid())
        if "affinities" in logits:
            height, width = (side // 2 for side in logits["masks"].shape[-2:])
            affinities = logits["affinities"][:, 0].softmax(dim=-1)
            attach(instances, "pred_pixel_affinities", affinities.reshape(-1, height, width, height, width))
        return instances
