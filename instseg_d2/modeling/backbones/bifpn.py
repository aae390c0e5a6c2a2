"""BiFPN (EfficientDet, arXiv:1911.09070, Sec. 3) over any backbone, of the form that AdelaiDet's models use."""

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.backbone import Backbone
from torch import nn
from torch.nn import functional as F

# Keeps the sum of the weights of a node off zero.
_EPSILON = 1e-4


def _halve(x: torch.Tensor) -> torch.Tensor:
    """Maxima of (N, C, H, W) in windows of 3, (N, C, ceil(H / 2), ceil(W / 2))."""
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class Fusion(nn.Module):
    """A node: the weighted mean of maps of one size, swish, 3x3 convolution, norm.

    The weights are learned numbers, cut off at zero and divided by their sum ("fast normalized fusion", Eq. 2 of
    arXiv:1911.09070). They start equal.

    Args:
        num_inputs: number of maps.
        channels: of the maps and of the result.
        norm: as `detectron2.layers.get_norm` takes it.
    """

    def __init__(self, *, num_inputs: int, channels: int, norm: str):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.conv = Conv2d(channels, channels, kernel_size=3, padding=1, bias=not norm, norm=get_norm(norm, channels))

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        """Map `num_inputs` tensors (N, C, H, W) to one."""
        weights = self.weights.relu()
        weights = weights / (weights.sum() + _EPSILON)
        return self.conv(F.silu(sum(weight * x for weight, x in zip(weights, maps, strict=True))))


class BiFPNLayer(nn.Module):
    """One way down from the coarsest level to the finest, and one back up.

    Args:
        in_channels: of each level, finest first. A level with other channels than the result goes through a 1x1
            convolution with bias and norm first.
        out_channels: of each result.
        norm: as `detectron2.layers.get_norm` takes it.
    """

    def __init__(self, *, in_channels: Sequence[int], out_channels: int, norm: str):
        super().__init__()
        self.laterals = nn.ModuleList(
            Conv2d(channels, out_channels, kernel_size=1, norm=get_norm(norm, out_channels))
            if channels != out_channels
            else nn.Identity()
            for channels in in_channels
        )
        count = len(self.laterals)
        # Both by level, finest first: down for all but the coarsest, up for all but the finest.
        self.down = nn.ModuleList(Fusion(num_inputs=2, channels=out_channels, norm=norm) for _ in range(count - 1))
        # The coarsest level has no node on the way down.
        self.up = nn.ModuleList(
            Fusion(num_inputs=3 if level < count - 1 else 2, channels=out_channels, norm=norm)
            for level in range(1, count)
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Map (N, C_l, H_l, W_l) levels, finest first and each half the size of the one before, to as many."""
        inputs = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        fused = [inputs[-1]]
        for node, x in zip(reversed(self.down), reversed(inputs[:-1]), strict=True):
            # To the size, as that of a level may be odd.
            fused.insert(0, node(x, F.interpolate(fused[0], size=x.shape[-2:], mode="nearest")))
        results = [fused[0]]
        of_level = [*zip(inputs[1:-1], fused[1:-1], strict=True), (inputs[-1],)]
        for node, own in zip(self.up, of_level, strict=True):
            results.append(node(*own, _halve(results[-1])))
        return results


class BiFPN(Backbone):
    """Layers of `BiFPNLayer` over the stages of a backbone and further, coarser levels.

    The first further level is the last stage through a 1x1 convolution with norm and a max pooling, the others are
    poolings of the one before. The output of stride 2^i is called "p<i>".

    Args:
        bottom_up: makes the stages.
        in_features: which of them to use, finest first; each stride must be twice the one before.
        out_channels: of every output; 160 in AdelaiDet's configs.
        num_top_levels: number of further levels.
        num_repeats: number of layers; 6 in AdelaiDet's configs.
        norm: as `detectron2.layers.get_norm` takes it. "SyncBN" shares its statistics among GPUs, and is an ordinary
            BatchNorm in one process, on the CPU too; for several processes on the CPU there is "naiveSyncBN".

    Raises:
        ValueError: the strides do not double, or there are fewer than two levels or no layer.
    """

    def __init__(
        self,
        *,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int = 160,
        num_top_levels: int = 2,
        num_repeats: int = 6,
        norm: str = "SyncBN",
    ):
        super().__init__()
        self.in_features = list(in_features)
        shapes = [bottom_up.output_shape()[name] for name in self.in_features]
        strides = [shape.stride for shape in shapes]
        if not shapes or strides != [strides[0] * 2**i for i in range(len(strides))]:
            raise ValueError(f"in_features={self.in_features}: their strides are {strides}, which must double")
        if len(strides) + num_top_levels < 2 or num_repeats < 1:
            raise ValueError(
                f"{len(strides)} in_features, num_top_levels={num_top_levels}, num_repeats={num_repeats}: there must "
                "be at least two levels and one layer"
            )
        self._size_divisibility = strides[-1]
        strides += [strides[-1] * 2 ** (1 + i) for i in range(num_top_levels)]
        self._out_features = [f"p{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

        self.bottom_up = bottom_up
        self.out_channels = out_channels
        self.num_top_levels = num_top_levels
        last = shapes[-1].channels
        self.top_lateral = nn.Identity()
        if num_top_levels and last != out_channels:
            self.top_lateral = Conv2d(
                last, out_channels, kernel_size=1, bias=not norm, norm=get_norm(norm, out_channels)
            )
        in_channels = [shape.channels for shape in shapes] + [out_channels] * num_top_levels
        self.layers = nn.ModuleList(
            BiFPNLayer(
                in_channels=in_channels if i == 0 else [out_channels] * len(in_channels),
                out_channels=out_channels,
                norm=norm,
            )
            for i in range(num_repeats)
        )

    @property
    def size_divisibility(self) -> int:
        """Stride of the coarsest stage, so that images are padded as for an FPN."""
        return self._size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images (N, C, H, W) to (N, out_channels, H / 2^i, W / 2^i) levels "p<i>", sizes rounded up."""
        stages = self.bottom_up(x)
        maps = [stages[name] for name in self.in_features]
        top = self.top_lateral(maps[-1])
        for _ in range(self.num_top_levels):
            top = _halve(top)
            maps.append(top)
        for layer in self.layers:
            maps = layer(maps)
        return dict(zip(self._out_features, maps, strict=True))
