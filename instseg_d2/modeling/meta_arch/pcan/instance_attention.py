"""PCAN's instance level: an object's mask is redrawn with prototypes of the object and of what lies around it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.mask_losses import mask_bce
from instseg_d2.layers.prototypes import cluster, posteriors, random_means, unit_length
from instseg_d2.layers.ranks import mean_over_ranks

from .temporal_segmentation import TemporalSegmentation

Propagation = Literal["recurrent", "first", "none", "refit"]

# Settings of `InstanceAttention` that make it what the authors released for BDD100K.
RELEASED: dict[str, Any] = {
    "foreground": 10,
    "background": 10,
    "joint": True,
    "propagation": "refit",
    "with_context": True,
    "keep_empty": False,
}
# Against division by zero, of the release.
_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class InstanceState:
    """What is known of the look of an object; of one, or of R with a first dimension R. Float32, no gradient.

    Attributes:
        foreground: (K+, C) prototypes of the object.
        background: (K-, C) prototypes of what lies around it in its box.
        context: (C,) mean feature of the object.
        attention: (A, S, S) maps of the frame that it was last seen in, if they were to be kept.
    """

    foreground: torch.Tensor
    background: torch.Tensor
    context: torch.Tensor
    attention: torch.Tensor | None = None


def _stack(states: Sequence[InstanceState]) -> InstanceState:
    """One state of R objects from R states."""
    return InstanceState(*(torch.stack([getattr(x, name) for x in states]) for name in _REMEMBERED))


_REMEMBERED = ("foreground", "background", "context")


class InstanceAttention(nn.Module):
    """Refines masks with prototypical attention to each object's past (PCAN, thesis 5.2.3).

    The first mask splits the features of a box into object and background; each part is condensed to prototypes by
    expectation maximization, which starts from the reference's, so that prototype j means the same in each frame. The
    current features attend to the prototypes; the maps, the features and the first mask go through
    `TemporalSegmentation`.

    The default is the thesis. There the object's prototypes compete among themselves, and so do those of the
    background: K+ and K- maps. In the release (`**RELEASED`) all compete with each other, and the shares are added up
    to one map each; the previous frame's features take the place of accumulated prototypes.

    Prototypes are constants for the gradient. An object without a past is its own reference.

    Args:
        channels: C, of the features.
        foreground: K+, may be 0; 30 is the best of Table 5.6.
        background: K-, may be 0.
        iterations: of each fit.
        variance: sigma^2 of the fits.
        read_variance: sigma^2 of the attention.
        joint: one softmax over all prototypes, and a map each for object and background; else two, and a map for each
            prototype.
        propagation: how prototypes go on in time (Table 5.7). "recurrent": eq. 5.8. "first": those of the object's
            first frame stay. "none": of the current frame alone. "refit": fitted to the current frame, starting from a
            fit to the frame before.
        momentum: lambda of eq. 5.8, the weight of the current frame.
        with_context: give the mean feature of the object in the reference to the network.
        keep_empty: prototypes of an empty part stay; else they become 0.
        start_momentum: weight of the old values in the moving average of all prototypes, from which new objects start.
            It moves in training alone, and is the same on all processes.
        conv_dim: width of the network.
        num_convs: its 3x3 convolutions.
        loss_weight: factor on `loss_refine`.
        keep_aux: keep the attention maps in the states, from where predictions get them as `pred_attention`.

    Raises:
        ValueError: unknown `propagation`, or a negative number of prototypes.
    """

    def __init__(
        self,
        *,
        channels: int,
        foreground: int = 30,
        background: int = 30,
        iterations: int = 6,
        variance: float = 0.05,
        read_variance: float = 1.0,
        joint: bool = False,
        propagation: Propagation = "recurrent",
        momentum: float = 0.2,
        with_context: bool = False,
        keep_empty: bool = True,
        start_momentum: float = 0.95,
        conv_dim: int = 256,
        num_convs: int = 4,
        loss_weight: float = 1.0,
        keep_aux: bool = False,
    ):
        super().__init__()
        if propagation not in get_args(Propagation) or min(foreground, background) < 0:
            raise ValueError(
                f"propagation={propagation!r}, foreground={foreground}, background={background}: propagation must be "
                f"one of {get_args(Propagation)}, the numbers not negative"
            )
        self.iterations = iterations
        self.variance = variance
        self.read_variance = read_variance
        self.joint = joint
        self.propagation = propagation
        self.momentum = momentum
        self.keep_empty = keep_empty
        self.start_momentum = start_momentum
        self.loss_weight = loss_weight
        self.keep_aux = keep_aux
        counts = (foreground, background)
        self.segmentation = TemporalSegmentation(
            in_channels=channels,
            # The first mask is a map as well.
            num_maps=1 + (sum(count > 0 for count in counts) if joint else sum(counts)),
            with_context=with_context,
            conv_dim=conv_dim,
            num_convs=num_convs,
        )
        self.register_buffer("start_foreground", random_means(foreground, channels))
        self.register_buffer("start_background", random_means(background, channels))

    def losses(
        self,
        features: torch.Tensor,
        logits: torch.Tensor,
        reference_features: torch.Tensor,
        reference_logits: torch.Tensor,
        targets: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Compute the loss of redrawn masks, each from a look at the same object in another frame.

        Every process must call it equally often; R may be 0.

        Args:
            features: (R, C, S, S) of the key frame.
            logits: (R, 1, M, M) of the first masks.
            reference_features: (R, C, S, S) of the same objects in the reference.
            reference_logits: (R, 1, M, M).
            targets: (R, 2S, 2S), 0 or 1, the masks of the key frame.

        Returns:
            `loss_refine`, the binary cross entropy; for R = 0 a zero that keeps the graph.
        """
        small = self._resize(logits, features)
        if self.propagation == "none":
            reference_features, reference_logits = features, logits
        reference = self._look(reference_features, self._resize(reference_logits, reference_features))
        used = self._propagate(features, small, reference)
        if self.training:
            self._follow(used)
        redrawn, _ = self._draw(features, small, used, reference.context)
        return {"loss_refine": self.loss_weight * mask_bce(redrawn[:, 0], targets)}

    def refine(
        self, features: torch.Tensor, logits: torch.Tensor, states: Sequence[InstanceState | None]
    ) -> tuple[torch.Tensor, list[InstanceState]]:
        """Redraw the masks of a frame.

        Args:
            features: (R, C, S, S) of the frame.
            logits: (R, 1, M, M) of the first masks.
            states: of the R objects, as this method returned them in the frame that each was last seen in; None for a
                new object.

        Returns:
            (R, 1, 2S, 2S) logits, and the R new states.
        """
        small = self._resize(logits, features)
        if len(features) == 0:
            side = self.segmentation.scale * features.shape[-1]
            return features.new_zeros(0, 1, side, side), []
        known = [None] * len(states) if self.propagation == "none" else list(states)
        own = None
        if self.propagation == "refit" or any(state is None for state in known):
            own = self._look(features, small)
            known = [x if x is not None else self._row(own, index) for index, x in enumerate(known)]
        reference = _stack(known)
        used = self._propagate(features, small, reference)
        redrawn, attention = self._draw(features, small, used, reference.context)
        kept = own if self.propagation == "refit" else used
        if self.keep_aux:
            kept = replace(kept, attention=attention.detach().float())
        return redrawn, [self._row(kept, index) for index in range(len(features))]

    @staticmethod
    def _row(states: InstanceState, index: int) -> InstanceState:
        # Copies: a view would keep the tensors of the whole frame alive for as long as its object is.
        parts = {name: getattr(states, name) for name in (*_REMEMBERED, "attention")}
        return InstanceState(**{name: None if x is None else x[index].clone() for name, x in parts.items()})

    @staticmethod
    def _resize(logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return F.interpolate(logits.float(), size=features.shape[-2:], mode="bilinear", align_corners=False)

    @torch.no_grad()
    def _look(self, features: torch.Tensor, logits: torch.Tensor) -> InstanceState:
        """Look at objects (R, C, S, S) with masks (R, 1, S, S) for the first time."""
        count = len(features)
        start = InstanceState(
            self.start_foreground.expand(count, -1, -1),
            self.start_background.expand(count, -1, -1),
            features.new_zeros(count, features.shape[1]),
        )
        return self._fit(features, logits, start)

    @torch.no_grad()
    def _fit(self, features: torch.Tensor, logits: torch.Tensor, start: InstanceState) -> InstanceState:
        """Condense objects (R, C, S, S) with masks (R, 1, S, S), starting from what is known of them."""
        pixels = features.float().flatten(2).transpose(1, 2)
        inside = (logits >= 0).flatten(1).to(pixels.dtype)
        parts = [
            cluster(
                pixels,
                means,
                iterations=self.iterations,
                variance=self.variance,
                mask=mask,
                # The same as by distance for means of one length, and that of the release for its first ones.
                metric="dot",
                keep_empty=self.keep_empty,
            )[0]
            for means, mask in ((start.foreground, inside), (start.background, 1 - inside))
        ]
        context = (pixels * inside[..., None]).sum(dim=1) / (inside.sum(dim=1, keepdim=True) + _EPS)
        return InstanceState(*parts, context)

    @torch.no_grad()
    def _propagate(self, features: torch.Tensor, logits: torch.Tensor, reference: InstanceState) -> InstanceState:
        """What the current frame is compared with, from it and from what was known before it."""
        if self.propagation == "first":
            return reference
        fitted = self._fit(features, logits, reference)
        if self.propagation != "recurrent":
            return fitted
        old, new = ([getattr(x, name) for name in _REMEMBERED] for x in (reference, fitted))
        foreground, background, context = (torch.lerp(a, b, self.momentum) for a, b in zip(old, new, strict=True))
        return InstanceState(unit_length(foreground), unit_length(background), context)

    def _draw(
        self, features: torch.Tensor, logits: torch.Tensor, used: InstanceState, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Redrawn masks (R, 1, 2S, 2S), logits, and the attention maps (R, A, S, S)."""
        attention = self.attend(features, used)
        return self.segmentation(features, torch.cat([attention, logits], dim=1), context), attention

    def attend(self, features: torch.Tensor, states: InstanceState) -> torch.Tensor:
        """Compare each pixel with the prototypes of its object.

        Args:
            features: (R, C, S, S).
            states: of the R objects.

        Returns:
            (R, A, S, S) float32: shares in [0, 1], maps of the object before those of the background.
        """
        pixels = features.flatten(2).transpose(1, 2)
        parts = [means for means in (states.foreground, states.background) if means.shape[1] > 0]
        if not parts:
            return features.new_zeros(len(features), 0, *features.shape[-2:], dtype=torch.float32)
        if self.joint:
            shares = posteriors(pixels, torch.cat(parts, dim=1), variance=self.read_variance, metric="dot")
            counts = [means.shape[1] for means in parts]
            maps = torch.stack([part.sum(dim=-1) for part in shares.split(counts, dim=-1)], dim=-1)
        else:
            maps = torch.cat([posteriors(pixels, x, variance=self.read_variance, metric="dot") for x in parts], dim=-1)
        return maps.transpose(1, 2).unflatten(2, tuple(features.shape[-2:]))

    @torch.no_grad()
    def _follow(self, used: InstanceState) -> None:
        """Move the prototypes that new objects start from towards the mean of these, over all processes."""
        sums = torch.cat([used.foreground.sum(dim=0), used.background.sum(dim=0)])
        total = mean_over_ranks(torch.cat([sums.flatten(), sums.new_tensor([len(used.foreground)])]))
        if total[-1] == 0:
            return
        means = (total[:-1] / total[-1]).view_as(sums)
        for start, mean in zip(
            (self.start_foreground, self.start_background),
            means.split([len(self.start_foreground), len(self.start_background)]),
            strict=True,
        ):
            start.lerp_(mean.to(start.dtype), 1 - self.start_momentum)
