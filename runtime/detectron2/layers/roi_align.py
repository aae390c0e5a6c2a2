"""RoIAlign as a module."""

import torch
from torch import nn
from torchvision.ops import roi_align

__all__ = ["ROIAlign", "roi_align"]


class ROIAlign(nn.Module):
    """Resample regions of a feature map to a fixed size by averaging bilinear samples."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ):
        """Set the geometry.

        Args:
            output_size: height and width of the result.
            spatial_scale: feature cells per unit of the boxes, 1 / stride.
            sampling_ratio: samples per output cell and direction; 0 takes as many as the cell has feature cells.
            aligned: cell i of the feature map is centred at i + 0.5, as pixels are. False takes centres at i, the
                convention of the original Mask R-CNN code, which is half a cell off.
        """
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Args: input: (N, C, H, W). rois: (R, 5), image index and xyxy. Returns (R, C, *output_size)."""
        assert rois.shape[1:] == (5,), f"rois are (R, 5), got {tuple(rois.shape)}"
        if input.is_quantized:
            input = input.dequantize()
        rois = rois.to(input.dtype)
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def __repr__(self) -> str:
        names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in names)})"
