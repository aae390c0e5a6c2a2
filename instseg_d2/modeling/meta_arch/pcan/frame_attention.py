"""Frame level of PCAN: the feature maps of a frame, with what earlier frames of the video know mixed in."""

import copy
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .attention import TemporalAttention

# Name of the one attention when all levels are one set of pixels.
_JOINED = "joined"


class FrameAttention(nn.Module):
    """Attends from feature levels of a frame to the same levels of earlier frames, and replaces them.

    Thesis 5.2.3, frame level. An entry is what the attention keeps of a frame, by level: with `PrototypicalAttention`
    prototypes, whose size does not depend on the frame's. A video model appends each frame's entry to a `new_memory`;
    training hands over the entries of the reference frames, with gradients.

    Args:
        in_features: names of the levels; P3 to P5 in the thesis.
        attention: one of `PrototypicalAttention` and `PrototypicalFilter` (the authors' release, on the two finest
            levels), or their rivals `SpaceTimeMemory` and `TemporalSelfAttention`.
        length: frames of a clip, the current one included; 1: no memory, and features pass unchanged.
        joined: the pixels of all levels are one set, which Table 5.5 needs; otherwise each level has a copy of
            `attention` of its own (Table 5.4).

    Raises:
        ValueError: no levels, or `length` below 1.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str] = ("p3", "p4", "p5"),
        attention: TemporalAttention,
        length: int,
        joined: bool = False,
    ):
        super().__init__()
        if length < 1 or not in_features:
            raise ValueError(f"length={length}, in_features={list(in_features)}: at least one frame and one level")
        self.in_features = tuple(in_features)
        self.length = length
        self.joined = joined
        names = () if length == 1 else (_JOINED,) if joined else self.in_features
        self.attentions = nn.ModuleDict({name: copy.deepcopy(attention) for name in names})

    def new_memory(self) -> deque:
        """What a video model keeps between frames, empty: the entries of the last `length` - 1 of them."""
        return deque(maxlen=self.length - 1)

    def forward(
        self, features: Mapping[str, torch.Tensor], memory: Iterable[Mapping[str, Any]]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Mix the memory into a frame.

        Args:
            features: (B, C, H, W) by name; the maps of one frame of each of B videos.
            memory: entries of earlier frames of the same videos, oldest first; of more than `length` - 1 the last ones
                are read. The frames may have other sizes.

        Returns:
            the features, of which `in_features` are replaced, in the same dtype; and the entry of this frame.

        Raises:
            KeyError: a level of `in_features` is missing.
        """
        sets, memory = self._pixels(features), self._recent(memory)
        entry, fused = {}, {}
        for name, attention in self.attentions.items():
            fused[name], entry[name] = attention(sets[name], [frame[name] for frame in memory])
        return {**features, **self._maps(fused, features)}, entry

    def encode(self, features: Mapping[str, torch.Tensor], memory: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """The entry of a frame without the rest of `forward`, which saves time with reference frames in training."""
        sets, memory = self._pixels(features), self._recent(memory)
        return {
            name: attention.encode(sets[name], [frame[name] for frame in memory])
            for name, attention in self.attentions.items()
        }

    def shares(self, features: Mapping[str, torch.Tensor], entry: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Where each prototype of a frame is seen in another frame, for pictures.

        Args:
            features: as in `forward`.
            entry: of any frame of the video; only with attention by prototypes.

        Returns:
            by level (B, N, H, W) probabilities, which sum to 1 over N.
        """
        sets = self._pixels(features)
        found = {name: attention.shares(sets[name], entry[name]) for name, attention in self.attentions.items()}
        return self._maps(found, features)

    def flops(self, pixels: Sequence[int]) -> int:
        """Multiply-adds for a clip of `length` frames, see `TemporalAttention.flops`.

        Args:
            pixels: of each level.
        """
        sets = {_JOINED: sum(pixels), **dict(zip(self.in_features, pixels, strict=True))}
        return sum(attention.flops(sets[name], self.length) for name, attention in self.attentions.items())

    def _recent(self, memory: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return list(deque(memory, maxlen=self.length - 1))

    def _pixels(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        missing = set(self.in_features) - set(features)
        if missing:
            raise KeyError(f"in_features {sorted(missing)} are not among the features {sorted(features)}")
        levels = {name: features[name].flatten(2).transpose(1, 2) for name in self.in_features}
        return {_JOINED: torch.cat(list(levels.values()), dim=1)} if self.joined else levels

    def _maps(self, sets: dict[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inverse of `_pixels`."""
        if _JOINED in sets:
            pixels = [like[name].shape[-2:].numel() for name in self.in_features]
            sets = dict(zip(self.in_features, sets[_JOINED].split(pixels, dim=1), strict=True))
        return {name: found.transpose(1, 2).unflatten(2, like[name].shape[-2:]) for name, found in sets.items()}
