"""Contours against hand counts and against OpenCV's morphology."""

import cv2
import numpy as np
import torch

from instseg_d2.layers.contours import mask_contours


def test_square_of_12_has_48_pixels_outside_and_44_inside():
    masks = torch.zeros(1, 28, 28)
    masks[0, 8:20, 8:20] = 1
    contours = mask_contours(masks)
    assert contours.sum() == 92
    assert (contours * (1 - masks)).sum() == 48
    assert (contours * masks).sum() == 44


def test_no_contour_along_the_border_nor_in_uniform_maps():
    masks = torch.zeros(3, 10, 10)
    masks[1] = 1
    masks[2, :, :5] = 1  # touches three sides: one straight edge of two pixels is left
    contours = mask_contours(masks)
    assert contours[:2].sum() == 0
    expected = torch.zeros(10, 10)
    expected[:, 4:6] = 1
    assert torch.equal(contours[2], expected)


def test_equals_dilation_xor_erosion():
    masks = (np.random.default_rng(0).random((20, 17, 23)) < 0.6).astype(np.uint8)
    contours = mask_contours(torch.as_tensor(masks))
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for mask, contour in zip(masks, contours, strict=True):
        # Without a border value OpenCV lets nothing beyond the image change the result.
        assert np.array_equal(contour.numpy(), cv2.dilate(mask, cross) ^ cv2.erode(mask, cross))


def test_no_region():
    assert mask_contours(torch.zeros(0, 28, 28)).shape == (0, 28, 28)
