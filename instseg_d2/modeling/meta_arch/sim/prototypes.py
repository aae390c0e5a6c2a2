"""What pixels of a class look like: several prototypes a class, learned online by optimal transport (SIM, Sec. 3.2)."""

import torch
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.optimal_transport import sinkhorn
from instseg_d2.layers.ranks import mean_over_ranks

ASSIGNMENTS = ("argmax", "gumbel")
AXES = {"vectors": -1, "prototypes": -2}
# Temperature of the released code's random assignment.
_GUMBEL_TEMPERATURE = 0.5


class Prototypes(nn.Module):
    """L prototypes for each class, and the probability of the class at pixels that resemble one of them.

    Knows nothing of the model: it takes the features of an image, which it normalizes itself, and the pixels of each
    object. In training: `semantic_maps` of a teacher's features, `update` with the student's, image by image, and
    `synchronize` once a step on all processes. All of it in float32, and without gradients.

    Args:
        num_classes: of the detector.
        channels: C of the features.
        num_prototypes: L.
        temperature: tau, by which cosines are divided; the released code has none (1).
        momentum: gamma, share of a prototype that stays in each image that has pixels for it.
        epsilon: see `sinkhorn`.
        sinkhorn_iterations: see `sinkhorn`.
        assignment: a pixel goes to the prototype of its greatest share in the plan ("argmax"), or to one that is drawn
            at random by a Gumbel softmax of the plan ("gumbel", the released code; close to an even draw).
        normalized: each vector has length 1, so that scores are cosines ("vectors"); or the released code's
            normalization over the prototypes of a class, channel by channel ("prototypes"), with centroids of length
            1 in place of means.

    Attributes:
        vectors: (num_classes, L, C) float32 buffer.

    Raises:
        ValueError: unknown `assignment` or `normalized`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int,
        num_prototypes: int = 10,
        temperature: float = 0.1,
        momentum: float = 0.999,
        epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        assignment: str = "argmax",
        normalized: str = "vectors",
    ):
        super().__init__()
        for name, value, known in (("assignment", assignment, ASSIGNMENTS), ("normalized", normalized, tuple(AXES))):
            if value not in known:
                raise ValueError(f"{name}='{value}': must be one of {known}")
        self.temperature = temperature
        self.momentum = momentum
        self.epsilon = epsilon
        self.sinkhorn_iterations = sinkhorn_iterations
        self.assignment = assignment
        self.normalized = normalized
        vectors = nn.init.trunc_normal_(torch.empty(num_classes, num_prototypes, channels), std=0.02)
        self.register_buffer("vectors", self._normalize(vectors))

    def _normalize(self, vectors: torch.Tensor) -> torch.Tensor:
        return F.normalize(vectors, dim=AXES[self.normalized])

    @torch.no_grad()
    def semantic_maps(self, features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Probability of each object's class at each pixel: sigmoid(max over l of <z_i, p_l> / tau).

        Args:
            features: (C, H, W) of one image, of any length.
            classes: (M,) int64; those that occur several times are computed once.

        Returns:
            (M, H, W) float32.
        """
        with torch.autocast(features.device.type, enabled=False):
            z = F.normalize(features.float(), dim=0)
            found, index = classes.unique(return_inverse=True)
            scores = torch.einsum("klc,chw->klhw", self.vectors[found], z)
            return (scores.amax(dim=1) / self.temperature).sigmoid()[index]

    @torch.no_grad()
    def update(
        self,
        features: torch.Tensor,
        masks: torch.Tensor,
        classes: torch.Tensor,
        scored_features: torch.Tensor | None = None,
    ) -> None:
        """Move the prototypes of an image's classes towards the pixels that the transport plan gives them.

        Args:
            features: (C, H, W) of one image.
            masks: (M, H, W) bool, foreground pixels; a class without any stays as it is. A pixel counts once for each
                row that has it.
            classes: (M,) int64.
            scored_features: (C, H, W), what the plan is made by, if not by `features`.
        """
        with torch.autocast(features.device.type, enabled=False):
            z = F.normalize(features.float(), dim=0)
            scored = z if scored_features is None else F.normalize(scored_features.float(), dim=0)
            for k in classes.unique().tolist():
                _, rows, columns = masks[classes == k].nonzero(as_tuple=True)
                if len(rows):
                    self._move(k, z[:, rows, columns], scored[:, rows, columns])
            self.vectors.copy_(self._normalize(self.vectors))

    def _move(self, k: int, pixels: torch.Tensor, scored: torch.Tensor) -> None:
        """Pixels (C, P) of a class, assigned by the scores of `scored` (C, P)."""
        plan = sinkhorn(self.vectors[k] @ scored, epsilon=self.epsilon, iterations=self.sinkhorn_iterations)
        members = F.one_hot(self._assign(plan), len(plan)).T.to(pixels)
        counts = members.sum(dim=1, keepdim=True)
        sums = members @ pixels.T
        centroids = sums / counts.clamp(min=1) if self.normalized == "vectors" else F.normalize(sums, dim=1)
        moved = self.vectors[k].lerp(centroids, 1 - self.momentum)
        self.vectors[k] = torch.where(counts > 0, moved, self.vectors[k])

    def _assign(self, plan: torch.Tensor) -> torch.Tensor:
        """The prototype of each pixel, (P,) int64."""
        if self.assignment == "argmax":
            return plan.argmax(dim=0)
        shares = plan.T * plan.shape[1]
        return F.gumbel_softmax(shares, tau=_GUMBEL_TEMPERATURE, hard=True).argmax(dim=1)

    @torch.no_grad()
    def synchronize(self) -> None:
        """Average the prototypes over all processes, which must all call this in every step."""
        self.vectors.copy_(self._normalize(mean_over_ranks(self.vectors)))
