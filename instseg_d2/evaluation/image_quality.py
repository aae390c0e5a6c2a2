"""How alike two pictures are: PSNR, SSIM and, where its weights are at hand, LPIPS.

Pictures are 8-bit, and all sums are in double precision: differences of unsigned bytes wrap around, and PSNR of a small
hole then comes out between 43 and 45 dB whatever is in it.
"""

import importlib.util
import logging
import os

import cv2
import numpy as np
import torch

logger = logging.getLogger(__name__)

PEAK = 255.0
PSNR_CAP = 100.0
# Of E2FGVI and ProPainter, and of scikit-image by default.
WIDE_WINDOW, WINDOW = 65, 7

_ALEXNET = "alexnet-owt-7be5be79.pth"


def psnr(first: np.ndarray, second: np.ndarray, region: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, at most 100, which is also that of equal pictures.

    Args:
        first: (H, W, C) uint8.
        second: same shape.
        region: (H, W) bool, the pixels to compare; None for all.

    Raises:
        ValueError: the region is empty.
    """
    squares = (first.astype(np.float64) - second.astype(np.float64)) ** 2
    if region is not None:
        squares = squares[region]
    if not squares.size:
        raise ValueError("no pixel to compare")
    error = squares.mean()
    return PSNR_CAP if error == 0 else min(PSNR_CAP, float(10 * np.log10(PEAK**2 / error)))


def window_for(height: int, width: int) -> int:
    """The window of SSIM for whole frames: 65 px as the relatives of VOIN have it, 7 px where that does not fit."""
    return WIDE_WINDOW if min(height, width) >= WIDE_WINDOW else WINDOW


def ssim_map(first: np.ndarray, second: np.ndarray, window: int) -> np.ndarray:
    """Structural similarity around each pixel: (H, W, C) float64.

    Uniform windows, mirrored at the border, sample covariance, K1 = 0.01, K2 = 0.03: as `structural_similarity` of
    scikit-image with `full=True`, to rounding.

    Args:
        first: (H, W, C) uint8.
        second: same shape.
        window: its side, an odd number of pixels, at most the pictures' shorter side.

    Raises:
        ValueError: the window is even or too large.
    """
    if window % 2 == 0 or window > min(first.shape[:2]):
        raise ValueError(f"a window of {window} px in {first.shape[1]} x {first.shape[0]} px: take a smaller, odd one")

    def mean(plane: np.ndarray) -> np.ndarray:
        blurred = cv2.blur(plane, (window, window), borderType=cv2.BORDER_REFLECT)
        return blurred.reshape(plane.shape)  # OpenCV drops an axis of one channel

    a, b = first.astype(np.float64), second.astype(np.float64)
    sample = window**2 / (window**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = (sample * (mean(x * x) - m * m) for x, m in ((a, mean_a), (b, mean_b)))
    covariance = sample * (mean(a * b) - mean_a * mean_b)
    low, high = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    return ((2 * mean_a * mean_b + low) * (2 * covariance + high)) / (
        (mean_a**2 + mean_b**2 + low) * (variance_a + variance_b + high)
    )


def ssim(first: np.ndarray, second: np.ndarray, window: int, region: np.ndarray | None = None) -> float:
    """Mean structural similarity: of all windows inside of the pictures, or of those around the pixels of a region.

    Args:
        first: (H, W, C) uint8.
        second: same shape.
        window: see `ssim_map`.
        region: (H, W) bool.

    Raises:
        ValueError: see `ssim_map`; also when the region is empty.
    """
    values = ssim_map(first, second, window)
    if region is None:
        rim = window // 2
        return float(values[rim : values.shape[0] - rim, rim : values.shape[1] - rim].mean())
    if not region.any():
        raise ValueError("no pixel to compare")
    return float(values[region].mean())


class PerceptualDistance:
    """LPIPS (arXiv:1801.03924) with AlexNet and the linear weights of version 0.1; see `find_lpips`.

    Args:
        network: called with two (N, 3, H, W) float RGB in [-1, 1], gives N distances.
        device: where it is.
    """

    def __init__(self, network: torch.nn.Module, device: str | torch.device = "cpu"):
        self.network = network.eval().to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, first: np.ndarray, second: np.ndarray) -> float:
        """Distance of two pictures (H, W, 3) uint8 RGB of 64 px or more a side; 0 for equal ones."""
        pair = [torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] for image in (first, second)]
        return float(self.network(*(image.to(self.device) / 127.5 - 1 for image in pair)).reshape(()))


def find_lpips(device: str | torch.device = "cpu") -> PerceptualDistance | None:
    """LPIPS, if the package and the weights are on this machine; else None, with what to do in the log.

    Nothing is downloaded.
    """
    trunk = os.path.join(torch.hub.get_dir(), "checkpoints", _ALEXNET)
    if importlib.util.find_spec("lpips") is None:
        logger.info(
            "no LPIPS: install the package 'lpips', and put torchvision's %s into its place %s", _ALEXNET, trunk
        )
        return None
    if not os.path.isfile(trunk):
        logger.info("no LPIPS: put torchvision's %s (233 MB) into its place %s", _ALEXNET, trunk)
        return None
    import lpips  # optional, and it loads torchvision's models

    return PerceptualDistance(lpips.LPIPS(net="alex", version="0.1", verbose=False), device)
