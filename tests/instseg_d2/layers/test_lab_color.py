"""L*a*b*: known colors, and scikit-image over the whole cube."""

import pytest
import torch

from instseg_d2.layers.lab_color import rgb_to_lab

# CIE L*a*b* of sRGB primaries under D65, as colorimetry tables print them.
KNOWN = {
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (128, 128, 128): (53.59, 0.0, 0.0),
}


@pytest.mark.parametrize(("rgb", "lab"), KNOWN.items())
def test_known_colors(rgb, lab):
    result = rgb_to_lab(torch.tensor(rgb, dtype=torch.uint8)[:, None, None])
    assert result.shape == (3, 1, 1)
    assert result.flatten().tolist() == pytest.approx(lab, abs=0.02)


def test_equals_scikit_image_after_rounding():
    color = pytest.importorskip("skimage.color", reason="scikit-image is the reference here and no dependency")
    steps = torch.arange(0, 256, 5, dtype=torch.uint8)
    cube = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")).flatten(2)
    expected = torch.from_numpy(color.rgb2lab(cube.movedim(0, -1).numpy())).float().movedim(-1, 0)
    result = rgb_to_lab(cube)
    assert result.dtype == torch.float32
    assert (result == expected).float().mean() > 0.999
    assert (result - expected).abs().max() <= 1e-5


def test_batches_and_floats():
    images = torch.randint(0, 256, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    result = rgb_to_lab(images.float())
    assert torch.equal(result[1], rgb_to_lab(images[1]))
