"""VOIN's content completion for frames of 96 x 64 px: 8 channels, 10 classes, narrow discriminators."""

from .voin_content import model

model.painter.network.update(width=8, dilations=[2, 4], mask_channels=8)
_channels = [8, 16, 32, 32, 32, 32]
model.critics.patch.channels = _channels
model.critics.by_class.update(num_classes=10, channels=_channels)
model.critics.by_class.attention.channels = 32
