"""What surrounds the transformer: encoder and decoder of single frames, and the fusion with class and visible mask."""

from collections.abc import Sequence

import torch
from torch import nn

from ..initialization import keep_scale


class FrameEncoder(nn.Sequential):
    """Four 3x3 convolutions to a quarter of the resolution and 4 * width channels (STTN's encoder).

    Args:
        in_channels: 4 for a frame and its visible mask; 5 with the mask of a known occluder.
        width: channels of the first two convolutions; 2 * width in the third.
        slope: of LeakyReLU.
    """

    stride = 4

    def __init__(self, *, in_channels: int = 4, width: int = 64, slope: float = 0.2):
        self.in_channels = in_channels
        layers = []
        for before, after, stride in (
            (in_channels, width, 2),
            (width, width, 1),
            (width, 2 * width, 2),
            (2 * width, 4 * width, 1),
        ):
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.LeakyReLU(slope)]
        super().__init__(*layers)
        keep_scale(self, slope)


class ShapeDecoder(nn.Sequential):
    """From 4 * width channels at a quarter of the resolution to `width` at full resolution (STTN's decoder).

    Bilinear x2, convolution to 2 * width, convolution to width, bilinear x2, convolution to width; all 3x3, each with
    LeakyReLU.

    Args:
        width: channels of the result.
        slope: of LeakyReLU.
    """

    def __init__(self, *, width: int = 64, slope: float = 0.2):
        def convolution(before: int, after: int) -> list[nn.Module]:
            return [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(slope)]

        def double() -> nn.Module:
            return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

        super().__init__(
            double(),
            *convolution(4 * width, 2 * width),
            *convolution(2 * width, width),
            double(),
            *convolution(width, width),
        )
        keep_scale(self, slope)


class ClassMaskFusion(nn.Module):
    """Join decoded features with what the object is and where it is seen (Sec. 5.4.1, after eq. 5.10).

    The embedding of the class times the visible mask, the mask itself and the features are concatenated; two 3x3
    convolutions with LeakyReLU and one 1x1 make the logit.

    Args:
        in_channels: of the features.
        num_classes: K.
        embedding_dim: length of a class's embedding; there are K + 1, that of the unknown class first.
        class_channels: the embedding is mapped to so many channels; 0 leaves classes out.
        hidden: channels of the two 3x3 convolutions, or of as many as there are numbers.
        class_dropout: in training this share of the clips counts as of unknown class, so that clips without a class
            can be used.
        slope: of LeakyReLU.
    """

    def __init__(
        self,
        *,
        in_channels: int = 64,
        num_classes: int,
        embedding_dim: int = 64,
        class_channels: int = 16,
        hidden: Sequence[int] = (64, 32),
        class_dropout: float = 0.1,
        slope: float = 0.2,
    ):
        super().__init__()
        self.class_dropout = class_dropout
        self.num_classes = num_classes
        self.embedding = (
            nn.Sequential(nn.Embedding(num_classes + 1, embedding_dim), nn.Linear(embedding_dim, class_channels))
            if class_channels
            else None
        )
        widths = [in_channels + class_channels + 1, *hidden]
        self.fuse = nn.Sequential()
        for before, after in zip(widths, widths[1:], strict=False):
            self.fuse.append(nn.Conv2d(before, after, 3, padding=1))
            self.fuse.append(nn.LeakyReLU(slope))
        self.fuse.append(nn.Conv2d(widths[-1], 1, 1))
        keep_scale(self.fuse, slope)

    def forward(self, features: torch.Tensor, visible: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
        """Compute logits of the complete mask.

        Args:
            features: (B, T, C, H, W).
            visible: (B, T, 1, H, W) float in {0, 1}.
            classes: (B,) int64 in [0, K), -1 for unknown; None if all are.

        Returns:
            (B, T, 1, H, W) float32 logits.

        Raises:
            ValueError: a class is none of these.
        """
        parts = [features, visible.to(features.dtype)]
        if self.embedding is not None:
            embedded = self.embedding(self._rows(classes, features))
            parts.append(embedded[:, None, :, None, None].to(features.dtype) * parts[1])
        logits = self.fuse(torch.cat(parts, dim=2).flatten(0, 1))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).unflatten(0, features.shape[:2])

    def _rows(self, classes: torch.Tensor | None, features: torch.Tensor) -> torch.Tensor:
        """(B,) rows of the table: 0 = unknown, else 1 + class."""
        if classes is None:
            return torch.zeros(len(features), dtype=torch.int64, device=features.device)
        if ((classes < -1) | (classes >= self.num_classes)).any():
            raise ValueError(f"classes must be in [0, {self.num_classes}), or -1 for unknown, got {classes.tolist()}")
        rows = classes.to(features.device) + 1
        if self.training and self.class_dropout:
            rows = rows * (torch.rand(len(rows), device=rows.device) >= self.class_dropout)
        return rows
