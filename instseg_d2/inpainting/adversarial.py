"""Adversarial losses of both discriminators and of the generator against them."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

UNKNOWN = -1


class PatchAdversarialLoss(nn.Module):
    """Hinge loss of T-PatchGAN, over all entries of the map (STTN, arXiv:2007.10247).

    Args:
        weight: of the generator's term; the discriminator's has weight 1.
    """

    def __init__(self, *, weight: float = 0.01):
        super().__init__()
        self.weight = weight

    def discriminator(self, real: torch.Tensor, fake: torch.Tensor) -> dict[str, torch.Tensor]:
        """Half of mean relu(1 - D(real)) + mean relu(1 + D(fake)).

        Args:
            real: scores of clean clips, any shape.
            fake: scores of composed clips, any shape, detached from the generator.

        Returns:
            `loss_patch_discriminator`, a float32 scalar.
        """
        real, fake = real.float(), fake.float()
        return {"loss_patch_discriminator": 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())}

    def generator(self, fake: torch.Tensor) -> dict[str, torch.Tensor]:
        """-mean D(fake) times the weight, as `loss_patch_adversarial`; `fake` are scores of composed clips."""
        return {"loss_patch_adversarial": -self.weight * fake.float().mean()}


class ClassAdversarialLoss(nn.Module):
    """Cross entropy over K classes and one for painted clips (Sec. 5.4.3 fixes the classes, not the loss).

    Of a clip of unknown class, real means any of the K classes: minus the log of the summed probability.

    Args:
        weight: of the generator's term; the discriminator's has weight 1.
        class_weights: K factors on clips of a class, see `balanced_weights`; None for 1. Those of unknown class have 1.
    """

    def __init__(self, *, weight: float = 0.01, class_weights: Sequence[float] | None = None):
        super().__init__()
        self.weight = weight
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def discriminator(self, real: torch.Tensor, fake: torch.Tensor, classes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Half of: clean clips are of their class, plus composed clips are painted.

        Args:
            real: (B, K + 1) logits of clean clips, painted last.
            fake: (B, K + 1) logits of composed clips, detached from the generator.
            classes: (B,) int64 in [0, K), -1 for unknown.

        Returns:
            `loss_class_discriminator`, a float32 scalar.
        """
        painted = torch.full_like(classes, fake.shape[1] - 1)
        return {"loss_class_discriminator": 0.5 * (self._real(real, classes) + F.cross_entropy(fake.float(), painted))}

    def generator(self, fake: torch.Tensor, classes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Composed clips shall pass for clips of their class; times the weight.

        Args:
            fake: (B, K + 1) logits of composed clips.
            classes: (B,) int64 in [0, K), -1 for unknown.

        Returns:
            `loss_class_adversarial`, a float32 scalar.
        """
        return {"loss_class_adversarial": self.weight * self._real(fake, classes)}

    def _real(self, logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Mean over the batch of -log P(class), or of -log(1 - P(painted)) where the class is unknown."""
        logs = logits.float().log_softmax(dim=1)
        known = classes != UNKNOWN
        index = classes.clamp(min=0)
        of_class = -logs.gather(1, index[:, None])[:, 0]
        if self.class_weights is not None:
            of_class = of_class * self.class_weights[index]
        return torch.where(known, of_class, -logs[:, :-1].logsumexp(dim=1)).mean()


def balanced_weights(counts: Sequence[int], *, cap: float = 5.0) -> list[float]:
    """Weights of classes by how rare they are: mean count over count, at most `cap`.

    Args:
        counts: clips of each class.
        cap: greatest weight, also that of classes without a clip.

    Returns:
        As many numbers above 0.
    """
    counts = list(counts)
    mean = sum(counts) / max(len(counts), 1)
    return [min(mean / count, cap) if count else cap for count in counts]
