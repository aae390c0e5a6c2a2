import sys
import types

import numpy as np
import pytest
import torch

from instseg_d2.evaluation.image_quality import PerceptualDistance, find_lpips, psnr, ssim, ssim_map, window_for


def pair(height=70, width=90, seed=0):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    second = np.clip(first.astype(int) + rng.integers(-20, 21, first.shape), 0, 255).astype(np.uint8)
    return first, second


def test_psnr_by_hand():
    first = np.array([[[10], [200]], [[0], [255]]], dtype=np.uint8)
    second = np.array([[[13], [196]], [[0], [255]]], dtype=np.uint8)
    # Squares 9, 16, 0, 0: mean 6.25; 10 log10(65025 / 6.25).
    assert psnr(first, second) == pytest.approx(40.1720, abs=1e-4)
    region = np.array([[True, False], [False, False]])
    assert psnr(first, second, region) == pytest.approx(10 * np.log10(65025 / 9))


def test_psnr_does_not_wrap_bytes_around():
    """0 - 255 is 1 in bytes, which would be 48 dB."""
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0
    noise = np.random.default_rng(0).integers(0, 256, (240, 432, 3), dtype=np.uint8)
    hole = noise.copy()
    hole[:60, :52] = 255 - hole[:60, :52]  # 3 % of the frame
    assert psnr(noise, hole) < 25


def test_psnr_of_equal_pictures_is_the_cap():
    image, _ = pair()
    assert psnr(image, image) == 100
    other = np.zeros((240, 240, 3), np.uint8)
    one = other.copy()
    one[0, 0, 0] = 1
    assert psnr(other, one) == 100
    with pytest.raises(ValueError, match="no pixel"):
        psnr(image, image, np.zeros(image.shape[:2], dtype=bool))


@pytest.mark.parametrize("window", [7, 65])
def test_ssim_equals_scikit_image(window):
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is the reference here and no dependency")
    first, second = pair()
    expected, full = metrics.structural_similarity(
        first, second, win_size=window, channel_axis=2, data_range=255, full=True
    )
    assert ssim(first, second, window) == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(ssim_map(first, second, window), full, atol=1e-9)
    region = np.zeros(first.shape[:2], dtype=bool)
    region[:5, 3:40] = True
    assert ssim(first, second, window, region) == pytest.approx(full[region].mean(), abs=1e-9)


def test_ssim_by_hand():
    """Flat pictures: means alone, (2 a b + C) / (a^2 + b^2 + C)."""
    first, second = (np.full((9, 9, 1), level, dtype=np.uint8) for level in (100, 120))
    low = (0.01 * 255) ** 2
    assert ssim(first, second, 7) == pytest.approx((2 * 100 * 120 + low) / (100**2 + 120**2 + low))
    assert ssim(first, first, 7) == pytest.approx(1)


def test_ssim_refuses():
    image, _ = pair(8, 8)
    for window in (6, 9):
        with pytest.raises(ValueError, match="take a smaller, odd one"):
            ssim(image, image, window)
    with pytest.raises(ValueError, match="no pixel"):
        ssim(image, image, 7, np.zeros((8, 8), dtype=bool))


def test_window_follows_the_size():
    assert [window_for(*size) for size in ((240, 432), (65, 65), (64, 96))] == [65, 65, 7]


class MeanDistance(torch.nn.Module):
    """In the place of LPIPS."""

    def forward(self, first, second):
        assert first.min() >= -1
        assert first.max() <= 1
        return (first - second).abs().mean(dim=(1, 2, 3), keepdim=True)


def test_lpips_gets_pictures_in_its_range():
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    assert PerceptualDistance(MeanDistance())(black, white) == pytest.approx(2)


def test_lpips_needs_package_and_weights(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "lpips", None)
    caplog.set_level("INFO")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_lpips() is None
    assert "install the package 'lpips'" in caplog.text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert find_lpips() is None
    assert f"into its place {tmp_path}/hub/checkpoints/alexnet-owt-7be5be79.pth" in caplog.text
    package = types.ModuleType("lpips")
    package.LPIPS = lambda net, version, verbose: MeanDistance()
    monkeypatch.setitem(sys.modules, "lpips", package)
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth").write_bytes(b"")
    assert isinstance(find_lpips(), PerceptualDistance)
