"""A fully connected CRF with Gaussian edges on a small grid, solved by exact mean field (no filter approximation).

Kraehenbuehl and Koltun, arXiv:1210.5644. On 28 x 28 points the kernel of all pairs has 0.6 million entries, so it is
built as a matrix; nothing needs compiling, and several regions are one batched product.

R = regions, P = points of the grid.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class DenseCRF:
    """Two labels, a Potts model, and two kernels over all pairs of points; each kernel is normalised symmetrically.

    The defaults are DeepLab's (arXiv:1606.00915), whose distances are pixels of a 500 px image, brought to a grid of
    28 points: 65 px are 3.6 points. Its 3 px would be less than a point, the nearest thing to which is one point.

    Attributes:
        bilateral_weight: of the kernel of place and colour.
        bilateral_sigma: its reach, in points.
        color_sigma: what counts as the same colour, in units of 0 to 255.
        smooth_weight: of the kernel of place alone.
        smooth_sigma: its reach, in points.
        iterations: of the mean field.
        max_elements: of the kernels that are held at a time; one region may exceed it.
    """

    bilateral_weight: float = 4.0
    bilateral_sigma: float = 3.6
    color_sigma: float = 3.0
    smooth_weight: float = 3.0
    smooth_sigma: float = 1.0
    iterations: int = 10
    max_elements: int = 2**24

    @torch.no_grad()
    def __call__(self, probabilities: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
        """Refine masks by the colours under them.

        Args:
            probabilities: (R, H, W) of the foreground, in [0, 1].
            colors: (R, 3, H, W), 0 to 255.

        Returns:
            (R, H, W) probabilities, float32 (float64 for float64).
        """
        dtype = torch.promote_types(probabilities.dtype, torch.float32)
        unary = _logits(probabilities.to(dtype).flatten(1))
        colors = colors.to(dtype).flatten(2)
        places = _distances(_grid(probabilities.shape[1:], unary))
        at_a_time = max(self.max_elements // max(unary.shape[1] ** 2, 1), 1)
        refined = [
            self._mean_field(part, self._kernel(places, color))
            for part, color in zip(unary.split(at_a_time), colors.split(at_a_time), strict=True)
        ]
        return torch.cat(refined).view(probabilities.shape) if refined else unary.view(probabilities.shape)

    def _kernel(self, places: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
        """(R, P, P) sum of both kernels, from (P, P) squared distances and (R, 3, P) colours."""
        hues = _distances(colors.transpose(1, 2))
        bilateral = torch.exp(-places / (2 * self.bilateral_sigma**2) - hues / (2 * self.color_sigma**2))
        smooth = torch.exp(-places / (2 * self.smooth_sigma**2))
        return self.bilateral_weight * _normalized(bilateral) + self.smooth_weight * _normalized(smooth)

    def _mean_field(self, unary: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """(R, P) probabilities from (R, P) logits.

        Of two labels the other one's message is the penalty, so in logits an update adds K q - K (1 - q).
        """
        beliefs = unary.sigmoid()
        for _ in range(self.iterations):
            messages = torch.bmm(kernel, (2 * beliefs - 1)[:, :, None])[:, :, 0]
            beliefs = (unary + messages).sigmoid()
        return beliefs


def _logits(probabilities: torch.Tensor) -> torch.Tensor:
    # Certainty has an infinite logit; 1e-5 is far below what a mask head ever says.
    return probabilities.clamp(1e-5, 1 - 1e-5).logit()


def _grid(size: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    rows, columns = (torch.arange(side, dtype=like.dtype, device=like.device) for side in size)
    return torch.cartesian_prod(rows, columns)


def _distances(points: torch.Tensor) -> torch.Tensor:
    """Squared distances (..., P, P) of points (..., P, D)."""
    return (points[..., :, None, :] - points[..., None, :, :]).square().sum(dim=-1)


def _normalized(kernel: torch.Tensor) -> torch.Tensor:
    """D^-1/2 K D^-1/2 without its diagonal: no point sends itself a message.

    In the degrees D each point counts itself, so that one without its like keeps its own opinion.
    """
    scale = kernel.sum(dim=-1).rsqrt()
    kernel = kernel * scale[..., :, None] * scale[..., None, :]
    return kernel - torch.diag_embed(torch.diagonal(kernel, dim1=-2, dim2=-1))
