"""Two discriminators of clips: T-PatchGAN, and one that names the object's class or calls it painted (Sec. 5.4.3)."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

ACTIVATIONS = ("sigmoid", "softmax")


def _convolution(before: int, after: int, *, first: bool, normed: bool) -> nn.Conv3d:
    """3x5x5, strided in space; the first one of a discriminator loses the border."""
    layer = nn.Conv3d(before, after, (3, 5, 5), (1, 2, 2), (1, 1, 1) if first else (1, 2, 2))
    return spectral_norm(layer) if normed else layer


class TPatchDiscriminator(nn.Module):
    """Judges each patch of a clip as real or painted (T-PatchGAN, arXiv:1904.10247; layout of STTN).

    3D convolutions 3x5x5 of stride 1x2x2, LeakyReLU and spectral norm on all but the last. Time is an axis of its
    own: clips of a batch never meet.

    Args:
        in_channels: 3 for frames alone.
        channels: of the convolutions.
        slope: of LeakyReLU.
        use_spectral_norm: on all convolutions but the last.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256, 256, 256, 256),
        slope: float = 0.2,
        use_spectral_norm: bool = True,
    ):
        super().__init__()
        widths = [in_channels, *channels]
        self.layers = nn.Sequential()
        for index, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            last = index == len(widths) - 2
            self.layers.append(_convolution(before, after, first=index == 0, normed=use_spectral_norm and not last))
            if not last:
                self.layers.append(nn.LeakyReLU(slope))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W), frames in [-1, 1], to (B, channels[-1], T, h, w) scores, greater for real; no sigmoid."""
        return self.layers(clips.transpose(1, 2))


class SpatioTemporalAttention(nn.Module):
    """STAM: weights of places and of frames, computed side by side, out = F + F A_s A_t (Fig. 5.9).

    The paper gives two parallel branches and the residual connection. As in CBAM (arXiv:1807.06521), A_s is the sigmoid
    of a convolution over each frame's mean and maximum over channels. As in SE (arXiv:1709.01507), A_t comes from two
    linear maps with ReLU in between of each frame's mean over places.

    Args:
        channels: C.
        kernel_size: of the convolution, odd.
        reduction: the linear maps narrow C so many times, to 1 at least.
        temporal: "sigmoid"; or "softmax" over the frames, times their number.
        keep_aux: keep the weights of the latest call in `aux`: `spatial` (B, T, H, W) and `temporal` (B, T), float32.

    Raises:
        ValueError: `temporal` is none of these.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        kernel_size: int = 7,
        reduction: int = 16,
        temporal: str = "sigmoid",
        keep_aux: bool = False,
    ):
        super().__init__()
        if temporal not in ACTIVATIONS:
            raise ValueError(f"temporal={temporal!r}: one of {', '.join(ACTIVATIONS)}")
        padding = kernel_size // 2
        self.places = nn.Conv3d(2, 1, (1, kernel_size, kernel_size), padding=(0, padding, padding))
        hidden = max(channels // reduction, 1)
        self.frames = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.temporal = temporal
        self.keep_aux = keep_aux
        self.aux: dict[str, torch.Tensor] = {}

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) to the same shape."""
        pooled = torch.cat([maps.mean(dim=1, keepdim=True), maps.amax(dim=1, keepdim=True)], dim=1)
        spatial = self.places(pooled).sigmoid()
        scores = self.frames(maps.mean(dim=(3, 4)).transpose(1, 2))[..., 0].float()
        temporal = scores.sigmoid() if self.temporal == "sigmoid" else scores.softmax(dim=1) * scores.shape[1]
        if self.keep_aux:
            self.aux = {"spatial": spatial.detach()[:, 0].float(), "temporal": temporal.detach()}
        return maps + maps * spatial * temporal.to(maps.dtype)[:, None, :, None, None]


class ClassDiscriminator(nn.Module):
    """Names the class of the object in a clip, one of K, or calls it painted, the class K.

    Six 3D convolutions as in `TPatchDiscriminator`, each with LeakyReLU, attention after the fourth, mean over time
    and places, and a linear map.

    Args:
        num_classes: K.
        attention: after the convolution of `attention_after`, such as `SpatioTemporalAttention`; None for none.
        attention_after: how many convolutions come before it.
        takes_mask: the object's complete mask is a fourth channel: it tells which of several objects is meant. The
            paper's figure shows frames alone.
        channels: of the convolutions.
        slope: of LeakyReLU.
        use_spectral_norm: on the convolutions.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        attention: nn.Module | None,
        attention_after: int = 4,
        takes_mask: bool = True,
        channels: Sequence[int] = (64, 128, 256, 256, 256, 256),
        slope: float = 0.2,
        use_spectral_norm: bool = True,
    ):
        super().__init__()
        widths = [4 if takes_mask else 3, *channels]
        self.takes_mask = takes_mask
        self.layers = nn.Sequential()
        for index, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            self.layers.append(_convolution(before, after, first=index == 0, normed=use_spectral_norm))
            self.layers.append(nn.LeakyReLU(slope))
            if attention is not None and index + 1 == attention_after:
                self.layers.append(attention)
        self.logits = nn.Linear(widths[-1], num_classes + 1)

    def forward(self, clips: torch.Tensor, complete: torch.Tensor | None = None) -> torch.Tensor:
        """Compute logits.

        Args:
            clips: (B, T, 3, H, W) in [-1, 1].
            complete: (B, T, 1, H, W) float in {0, 1}, if `takes_mask`.

        Returns:
            (B, K + 1) logits, the last for painted.

        Raises:
            ValueError: the mask is missing.
        """
        if self.takes_mask:
            if complete is None:
                raise ValueError("this discriminator takes the complete mask too; pass it, or build without takes_mask")
            clips = torch.cat([clips, complete.to(clips.dtype)], dim=2)
        return self.logits(self.layers(clips.transpose(1, 2)).mean(dim=(2, 3, 4)))
