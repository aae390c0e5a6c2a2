"""Colors as the eye tells them apart, on the device that the image is on."""

import torch

# Linear sRGB to XYZ, and the white of D65 for an observer of 2 degrees, as scikit-image has them.
_XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)


def rgb_to_lab(image: torch.Tensor) -> torch.Tensor:
    """Convert sRGB to CIE L*a*b*.

    In double precision inside: the result is `skimage.color.rgb2lab` of the uint8 image but for the rounding to
    float32, so that thresholds on color distances cut at the same pixels.

    Args:
        image: (..., 3, H, W), 0 to 255, of any dtype.

    Returns:
        the same shape, float32: lightness 0 to 100, then a* and b*.
    """
    values = image.double() / 255
    linear = torch.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    matrix = linear.new_tensor(_XYZ_FROM_RGB) / linear.new_tensor(_WHITE)[:, None]
    xyz = torch.einsum("ij,...jhw->...ihw", matrix, linear)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=0) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(dim=-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3).float()
