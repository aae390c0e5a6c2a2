"""VOIN's shape completion for frames of 96 x 64 px: 2 layers of 2 heads, 8 channels, 10 classes."""

from .voin_shape import model

model.network.encoder.width = 8
model.network.transformer.update(channels=32, num_layers=2, grids=[1, 4])
model.network.fusion.update(num_classes=10, class_channels=4, hidden=[16, 8])
