"""BCNet's bilayer mask head: an occluder and an occludee layer (thesis chapter 3; CVPR 2021, arXiv:2103.12340)."""

from collections.abc import Mapping, Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.contours import mask_contours
from instseg_d2.layers.convolution import conv_block
from instseg_d2.layers.graph_convolution import GraphConvolution
from instseg_d2.layers.mask_losses import mask_bce, pick_channel

from .base import MaskHead, attach
from .targets import crop_targets

# Settings of `BCNetHead` by source: `mask_head.update(PAPER)` in a config.
PAPER = {
    "graph": {"transforms": 3, "norm": "LN", "activation": True, "scale": False},
    "deconvs": "layer",
    "occluder_sampling": "balanced",
}
RELEASED = {
    "graph": {"transforms": 4, "norm": "BN", "activation": False, "scale": True},
    "deconvs": "output",
    "occluder_sampling": "first",
}

_DECONVS = ("output", "layer", "shared")
# Output -> layer that it is predicted from.
_LAYER_OF = {
    "masks": "occludee",
    "contours": "occludee",
    "occluder_masks": "occluder",
    "occluder_contours": "occluder",
}
# Output -> its loss.
_LOSS_OF = {
    "masks": "loss_mask",
    "contours": "loss_contour",
    "occluder_masks": "loss_occluder",
    "occluder_contours": "loss_occluder_contour",
}


class Tower(nn.Sequential):
    """3x3 convolutions with ReLU, and a graph convolution behind one of them.

    Args:
        in_channels: of the input.
        channels: of every convolution.
        num_convs: how many convolutions.
        graph: arguments of `GraphConvolution`; None for convolutions alone.
        graph_after: number of convolutions before it.
    """

    def __init__(
        self, in_channels: int, channels: int, *, num_convs: int, graph: Mapping | None = None, graph_after: int = 2
    ):
        super().__init__()
        for number in range(1, num_convs + 1):
            convolution = conv_block(in_channels if number == 1 else channels, channels)
            weight_init.c2_msra_fill(convolution)
            self.add_module(f"conv{number}", convolution)
            if graph is not None and number == graph_after:
                self.add_module("graph", GraphConvolution(channels, **graph))


def occluder_weights(occluded: torch.Tensor, sampling: str) -> torch.Tensor:
    """How often each region counts in the losses of the occluder layer.

    Most regions have no occluder, and would teach the layer to answer nothing. No count leaves the device.

    Args:
        occluded: (R,) bool, the region has an occluder; K of them have.
        sampling: "balanced": those K, and K others drawn at random, or all others if they are fewer (the paper's
            half-and-half); "first": those K, and the first K of all, which may count twice (the authors' release);
            "all": every region.

    Returns:
        (R,) float32; all zero when K is 0 and `sampling` is not "all".
    """
    if sampling == "all":
        return torch.ones_like(occluded, dtype=torch.float32)
    count = occluded.sum()
    if sampling == "first":
        return occluded.float() + (torch.arange(len(occluded), device=occluded.device) < count).float()
    # Occluded regions come last in the order, so that the first K places go to others.
    order = torch.rand(len(occluded), device=occluded.device) + 2 * occluded
    place = order.argsort().argsort()
    return torch.maximum(occluded.float(), (place < count).float())


_SAMPLINGS = ("balanced", "first", "all")


def _weighted_bce(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over pixels, then mean over regions with weights (R,); zero with a graph when all are zero."""
    each = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(dim=(1, 2))
    return (each * weights).sum() / weights.sum().clamp(min=1)


class BCNetHead(MaskHead):
    """Two layers on the same region features: the first sees the occluder, the second, guided by it, the object.

    The defaults are the thesis's figures with four convolutions a layer, which its parameter counts (Table 3.3) imply;
    `RELEASED` are the settings of the authors' code. A weight of 0 leaves the output out.

    Needs `gt_occluders` from the mapper (`instseg_d2.data.occluders`) when an occluder weight is not 0.

    Args:
        input_shape: its channels are those of the pooled features.
        num_classes: channels of every output; 1 for class-agnostic maps.
        conv_dim: channels of both layers. Guidance adds the first layer's result to the input, which then must have
            as many.
        num_convs: 3x3 convolutions of each layer.
        graph: arguments of `GraphConvolution` in each layer; None for convolutions alone (Table 3.3, "FCN").
        graph_after: number of convolutions before the graph convolution.
        bilayer: False leaves the occluder layer out.
        guidance: the occludee layer gets the sum of input and occluder features (eq. 3.5); False: the input.
        deconvs: an upsampling per "output" (release), per "layer" (thesis), or one "shared" by all.
        loss_weight: of `loss_mask`.
        contour_weight: of `loss_contour`, the outline of the object. The release sums the same term twice at 0.5.
        occluder_weight: of `loss_occluder` (eq. 3.8).
        occluder_contour_weight: of `loss_occluder_contour` (eq. 3.7).
        occluder_sampling: see `occluder_weights`.
        keep_aux: in inference also give `pred_contours`, `pred_occluder_masks`, `pred_occluder_contours`,
            (R, 1, M, M) probabilities relative to the box.

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
        graph: Mapping | None = PAPER["graph"],
        graph_after: int = 2,
        bilayer: bool = True,
        guidance: bool = True,
        deconvs: str = "layer",
        loss_weight: float = 1.0,
        contour_weight: float = 1.0,
        occluder_weight: float = 0.25,
        occluder_contour_weight: float = 1.0,
        occluder_sampling: str = "balanced",
        keep_aux: bool = False,
    ):
        super().__init__(loss_weight=loss_weight)
        weights = {
            "masks": loss_weight,
            "contours": contour_weight,
            "occluder_masks": occluder_weight if bilayer else 0,
            "occluder_contours": occluder_contour_weight if bilayer else 0,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self._check(input_shape.channels, conv_dim, bilayer, guidance, deconvs, occluder_sampling)
        if graph is not None and not 1 <= graph_after <= num_convs:
            raise ValueError(f"graph_after={graph_after}: must lie in 1..num_convs={num_convs}")
        tower = {"num_convs": num_convs, "graph": graph, "graph_after": graph_after}
        self.occluder = Tower(input_shape.channels, conv_dim, **tower) if bilayer else None
        self.occludee = Tower(input_shape.channels, conv_dim, **tower)
        self.deconv_of = {
            name: {"output": name, "layer": _LAYER_OF[name], "shared": "shared"}[deconvs] for name in self.weights
        }
        self.deconvs = nn.ModuleDict(
            {
                key: ConvTranspose2d(conv_dim, conv_dim, kernel_size=2, stride=2)
                for key in dict.fromkeys(self.deconv_of.values())
            }
        )
        self.predictors = nn.ModuleDict({name: Conv2d(conv_dim, num_classes, kernel_size=1) for name in self.weights})
        self.guidance = guidance and bilayer
        self.occluder_sampling = occluder_sampling
        self.keep_aux = keep_aux
        for layer in self.deconvs.values():
            weight_init.c2_msra_fill(layer)
        for layer in self.predictors.values():
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def _check(
        self, in_channels: int, conv_dim: int, bilayer: bool, guidance: bool, deconvs: str, occluder_sampling: str
    ) -> None:
        if deconvs not in _DECONVS or occluder_sampling not in _SAMPLINGS:
            raise ValueError(
                f"deconvs={deconvs!r}, occluder_sampling={occluder_sampling!r}: must be one of {_DECONVS}, {_SAMPLINGS}"
            )
        if "masks" not in self.weights:
            raise ValueError("loss_weight=0 leaves the masks out")
        if bilayer and guidance and in_channels != conv_dim:
            raise ValueError(
                f"guidance adds {conv_dim} channels (conv_dim) to {in_channels} of the input: make them equal"
            )
        if bilayer and not guidance and not {"occluder_masks", "occluder_contours"} & self.weights.keys():
            raise ValueError("the occluder layer has no output and guides nothing: set bilayer=False")

    def layers(self, x: torch.Tensor, instances: list[Instances]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `MaskHead.layers`; the logits are `masks` and, in training or with `keep_aux`, the other outputs."""
        features = {}
        if self.occluder is not None and (self.guidance or self.training or self.keep_aux):
            features["occluder"] = self.occluder(x)
        features["occludee"] = self.occludee(x + features["occluder"] if self.guidance else x)
        names = list(self.weights) if self.training or self.keep_aux else ["masks"]
        upsampled: dict[tuple[str, str], torch.Tensor] = {}
        for name in names:
            key = _LAYER_OF[name], self.deconv_of[name]
            if key not in upsampled:
                upsampled[key] = F.relu(self.deconvs[key[1]](features[key[0]]))
        logits = {name: self.predictors[name](upsampled[_LAYER_OF[name], self.deconv_of[name]]) for name in names}
        return upsampled["occludee", self.deconv_of["masks"]], logits

    @property
    def loss_names(self) -> list[str]:
        return [_LOSS_OF[name] for name in self.weights]

    def map_losses(
        self, maps: dict[str, torch.Tensor], targets: torch.Tensor, instances: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """Compute `loss_mask` and, as far as their weights are not 0, the losses of contour, occluder and its contour.

        The targets of the contours are drawn from the cropped masks by `mask_contours`.

        Args:
            maps: see `MaskHead.map_losses`.
            targets: see there.
            instances: also with `gt_occluders`, unless the occluder layer is left out.
        """
        losses = super().map_losses(maps, targets, instances)
        if "contours" in maps:
            losses["loss_contour"] = self.weights["contours"] * mask_bce(maps["contours"], mask_contours(targets))
        if "occluder_masks" in maps or "occluder_contours" in maps:
            losses |= self._occluder_losses(maps, crop_targets(instances, targets.shape[-1], "gt_occluders"))
        return losses

    def _occluder_losses(self, maps: dict[str, torch.Tensor], targets: torch.Tensor) -> dict[str, torch.Tensor]:
        weights = occluder_weights(targets.flatten(1).any(dim=1), self.occluder_sampling)
        losses = {}
        if "occluder_masks" in maps:
            loss = _weighted_bce(maps["occluder_masks"], targets, weights)
            losses["loss_occluder"] = self.weights["occluder_masks"] * loss
        if "occluder_contours" in maps:
            loss = _weighted_bce(maps["occluder_contours"], mask_contours(targets), weights)
            losses["loss_occluder_contour"] = self.weights["occluder_contours"] * loss
        return losses

    def inference(self, logits: dict[str, torch.Tensor], instances: Sequence[Instances]) -> list[Instances]:
        """Attach `pred_masks`, and with `keep_aux` the other maps; see `MaskHead.inference`."""
        instances = super().inference(logits, instances)
        classes = torch.cat([x.pred_classes for x in instances])
        for name, maps in logits.items():
            if name != "masks":
                attach(instances, f"pred_{name}", pick_channel(maps, classes).float().sigmoid()[:, None])
        return instances
