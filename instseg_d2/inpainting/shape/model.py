"""Shape completion as a whole: frames and visible masks in, complete masks out (Sec. 5.4.1)."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..clips import check_clip
from ..windows import Window, blend, neighbor_windows, stack_frames
from .parts import ClassMaskFusion, FrameEncoder, ShapeDecoder
from .transformer import SpaceTimeTransformer


class ShapeCompletion(nn.Module):
    """Predicts an object's complete masks from its visible ones.

    Each frame is encoded together with its mask, features of all frames attend to each other, and each frame is decoded
    and joined with the object's class and visible mask. Clips of any size are padded with grey and empty masks to what
    the transformer's grids need.

    Args:
        encoder: of frames; its `in_channels` tell whether it also takes the mask of known occluders.
        transformer: of encoded clips.
        decoder: to features at full resolution.
        fusion: to logits.
        threshold: of the probability, above which a pixel belongs to the object. PCNet (arXiv:2004.02788) shows results
            at 0.5 on COCOA and 0.4 on KINS.

    Raises:
        ValueError: the encoder takes neither 4 nor 5 channels.
    """

    def __init__(
        self,
        *,
        encoder: FrameEncoder,
        transformer: SpaceTimeTransformer,
        decoder: ShapeDecoder,
        fusion: ClassMaskFusion,
        threshold: float = 0.5,
    ):
        super().__init__()
        if encoder.in_channels not in (4, 5):
            raise ValueError(f"encoder.in_channels={encoder.in_channels}: 4 (RGB, mask), or 5 with known occluders")
        self.takes_occluders = encoder.in_channels == 5
        self.encoder = encoder
        self.transformer = transformer
        self.decoder = decoder
        self.fusion = fusion
        self.threshold = threshold

    def forward(
        self,
        frames: torch.Tensor,
        visible: torch.Tensor,
        classes: torch.Tensor | None = None,
        occluders: torch.Tensor | None = None,
        *,
        num_outputs: int | None = None,
    ) -> torch.Tensor:
        """Compute logits of the complete masks.

        Args:
            frames: (B, T, 3, H, W) in [-1, 1], as observed, occluders included.
            visible: (B, T, 1, H, W) float in {0, 1}.
            classes: (B,) int64 in [0, K), -1 for unknown; None if all are.
            occluders: (B, T, 1, H, W) float in {0, 1}, what is known to lie before the object; None if unknown. An
                encoder of 4 channels does not look at it.
            num_outputs: decode the first so many frames alone; the others are references.

        Returns:
            (B, num_outputs or T, 1, H, W) float32 logits.

        Raises:
            InpaintingError: the parts do not fit each other.
        """
        check_clip(frames, visible=visible, occluders=occluders)
        parts = [frames, visible]
        if self.takes_occluders:
            parts.append(torch.zeros_like(visible) if occluders is None else occluders)
        height, width = frames.shape[-2:]
        clip = _padded(torch.cat([part.to(frames.dtype) for part in parts], dim=2), self._multiple)
        features = self.transformer(self.encoder(clip.flatten(0, 1)).unflatten(0, clip.shape[:2]))[:, :num_outputs]
        decoded = self.decoder(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return self.fusion(decoded[..., :height, :width], visible[:, :num_outputs], classes)

    @property
    def _multiple(self) -> int:
        return self.encoder.stride * self.transformer.multiple

    def decide(
        self, probabilities: torch.Tensor, visible: torch.Tensor, occluders: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Make masks of probabilities: what is seen always belongs to the object.

        Args:
            probabilities: (..., H, W) in [0, 1].
            visible: same shape, float in {0, 1}.
            occluders: same shape; if given, the object grows inside these masks alone.

        Returns:
            Float32 in {0, 1}, of the same shape.
        """
        grown = (probabilities > self.threshold).float()
        if occluders is not None:
            grown = grown * occluders.to(grown)
        return torch.maximum(grown, visible.to(grown))

    @torch.no_grad()
    def complete(
        self,
        frames: torch.Tensor,
        visible: torch.Tensor,
        classes: torch.Tensor | None = None,
        occluders: torch.Tensor | None = None,
        *,
        windows: Sequence[Window] | None = None,
    ) -> torch.Tensor:
        """Complete the masks of a clip of any length, in windows; probabilities of overlapping windows are averaged.

        Args:
            frames: see `forward`.
            visible: see `forward`.
            classes: see `forward`.
            occluders: see `forward`; also limits where masks grow, see `decide`.
            windows: `neighbor_windows(T)` by default; they must cover the clip.

        Returns:
            (B, T, 1, H, W) float32 in {0, 1}.

        Raises:
            InpaintingError: the parts do not fit each other, or the windows do not cover the clip.
        """
        check_clip(frames, visible=visible, occluders=occluders)
        length = frames.shape[1]

        def predict(window: Window) -> torch.Tensor:
            masks = None if occluders is None else occluders[:, window.seen]
            seen = frames[:, window.seen], visible[:, window.seen], classes, masks
            return self(*seen, num_outputs=len(window.frames)).sigmoid()

        averaged = blend(neighbor_windows(length) if windows is None else windows, predict)
        return self.decide(stack_frames(averaged, length), visible, occluders)


def _padded(clip: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zeros below and to the right, so that both sides are multiples: grey frames, empty masks."""
    height, width = clip.shape[-2:]
    return F.pad(clip, (0, -width % multiple, 0, -height % multiple))
