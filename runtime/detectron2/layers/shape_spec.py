"""What one component tells the next about a feature map before any tensor exists."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Channels, spatial size, and stride (input pixels per cell) of a feature map; None where unknown."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
