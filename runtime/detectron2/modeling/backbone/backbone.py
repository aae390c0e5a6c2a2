"""The interface every backbone implements."""

from abc import ABCMeta, abstractmethod

from torch import nn

from detectron2.layers import ShapeSpec

__all__ = ["Backbone"]


class Backbone(nn.Module, metaclass=ABCMeta):
    """Base class of the networks that turn a batch of images into named feature maps.

    A subclass implements :meth:`forward`, and either overrides :meth:`output_shape` or sets the three attributes
    that it reads: `_out_features` (list of names), `_out_feature_channels` and `_out_feature_strides` (by name).
    """

    def __init__(self):
        super().__init__()

    @abstractmethod
    def forward(self):
        """Map images (N, C, H, W) to features.

        Returns:
            dict[str, Tensor]: (N, Ci, Hi, Wi) by feature name.
        """

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this; 0 when any size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """How images must be padded into a batch: optional keys `size_divisibility` (takes the place of the property of
        that name) and `square_size` (pad to a square with this side when it is above 0).
        """
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature that :meth:`forward` returns, by name."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {name: ShapeSpec(channels=channels[name], stride=strides[name]) for name in self._out_features}
