"""Pasting of masks: identity with plain grid sampling, geometry by hand, odd boxes."""

import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.layers.mask_ops import pad_masks, paste_mask_in_image_old, scale_boxes
from torch.nn import functional as F

HEIGHT, WIDTH = 60, 80


def smooth_masks(count, side=28, seed=0):
    noise = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 5, 1, 2)[:, 0]


def sampled_everywhere(masks, boxes, height=HEIGHT, width=WIDTH):
    """Values of the masks at all pixel centres of the image by one `grid_sample` per mask."""
    images = []
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        u = (torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1
        v = (torch.arange(height) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([u.expand(height, width), v[:, None].expand(height, width)], dim=-1)
        images.append(F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0])
    return torch.stack(images)


def boxes_in_and_around_the_image():
    return torch.tensor(
        [[5.0, 7, 60, 50], [-20.3, -8.1, 30.2, 90.7], [70.4, 50.2, 95.1, 66.6], [10.1, 10.2, 11.4, 40], [0, 0, 80, 60]]
    )


@pytest.mark.parametrize("threshold", [0.5, 0.45, 0.02])
def test_paste_equals_grid_sample(threshold):
    boxes = boxes_in_and_around_the_image()
    masks = smooth_masks(len(boxes))
    pasted = paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH), threshold)
    assert pasted.dtype == torch.bool
    assert torch.equal(pasted, sampled_everywhere(masks, boxes) >= threshold)
    assert pasted.any(dim=(1, 2)).all()


def test_values_on_the_threshold_are_foreground_exactly():
    # Every interior pixel is a tie: rounding must fall as it does in grid_sample.
    boxes = torch.tensor([[3.3, 4.7, 66.1, 51.9]])
    masks = torch.full((1, 28, 28), 0.5)
    assert torch.equal(paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH)), sampled_everywhere(masks, boxes) >= 0.5)


@pytest.mark.parametrize(("side", "scale"), [(7, 1.0), (112, 1.0), (28, 40.0)])
def test_other_sides_and_logits(side, scale):
    boxes = boxes_in_and_around_the_image()
    masks = (smooth_masks(len(boxes), side) - 0.5) * scale
    pasted = paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH), 0.0)
    reached = torch.zeros_like(pasted)
    for canvas, box in zip(reached, boxes, strict=True):
        x0, y0, x1, y1 = box.tolist()
        canvas[max(int(y0), 0) : int(y1 + 1), max(int(x0), 0) : int(x1 + 1)] = True
    assert torch.equal(pasted & reached, (sampled_everywhere(masks, boxes) >= 0) & reached)


def test_many_rows_are_painted_in_blocks():
    boxes = torch.tensor([[10.0, 5, 690, 480]])
    masks = smooth_masks(1)
    expected = sampled_everywhere(masks, boxes, 500, 700) >= 0.5
    assert torch.equal(paste_masks_in_image(masks, boxes, (500, 700)), expected)


def test_negative_threshold_keeps_the_values():
    boxes = boxes_in_and_around_the_image()
    masks = smooth_masks(len(boxes))
    pasted = paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH), -1)
    assert pasted.dtype == torch.uint8
    assert torch.equal(pasted, (sampled_everywhere(masks, boxes) * 255).to(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_binary_masks(dtype):
    boxes = boxes_in_and_around_the_image()
    masks = (smooth_masks(len(boxes)) > 0.5).to(dtype)
    assert torch.equal(
        paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH)),
        paste_masks_in_image(masks.float(), boxes, (HEIGHT, WIDTH)),
    )


def test_double_precision():
    boxes = boxes_in_and_around_the_image()
    masks = smooth_masks(len(boxes))
    pasted = paste_masks_in_image(masks.double(), boxes, (HEIGHT, WIDTH))
    assert torch.equal(pasted, paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH)))


def test_empty_input_and_mismatch():
    assert paste_masks_in_image(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)
    with pytest.raises(AssertionError):
        paste_masks_in_image(torch.zeros(2, 28, 28), torch.zeros(1, 4), (5, 6))
    with pytest.raises(AssertionError):
        paste_masks_in_image(torch.zeros(1, 28, 14), torch.zeros(1, 4), (5, 6))


def test_boxes_without_area_are_background():
    boxes = torch.tensor([[10.0, 10, 10, 30], [5.5, 5.5, 5.5, 5.5]])
    assert not paste_masks_in_image(torch.ones(2, 28, 28), boxes, (HEIGHT, WIDTH)).any()


@pytest.mark.bundled_only
def test_boxes_outside_or_not_finite_are_background():
    boxes = torch.tensor([[100.0, 10, 120, 30], [-50, -50, -10, -10], [0, 0, float("nan"), 5]])
    assert not paste_masks_in_image(torch.ones(3, 28, 28), boxes, (HEIGHT, WIDTH)).any()


@pytest.mark.bundled_only
def test_half_precision_is_computed_in_float32():
    boxes = boxes_in_and_around_the_image()
    masks = smooth_masks(len(boxes)).bfloat16()
    expected = sampled_everywhere(masks.float(), boxes) >= 0.5
    assert torch.equal(paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH)), expected)


@pytest.mark.bundled_only
@pytest.mark.parametrize("masks_per_chunk", [0, 2, 100])
def test_the_way_of_accelerators_gives_the_same(monkeypatch, masks_per_chunk):
    from detectron2.layers import mask_ops

    monkeypatch.setattr(mask_ops, "GPU_MEM_LIMIT", masks_per_chunk * 12 * HEIGHT * WIDTH)
    boxes = boxes_in_and_around_the_image()
    masks = smooth_masks(len(boxes))
    chunked = mask_ops._paste_in_chunks(masks, boxes, HEIGHT, WIDTH, 0.5)
    assert torch.equal(chunked, paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_agree():
    boxes = boxes_in_and_around_the_image()
    masks = smooth_masks(len(boxes))
    on_gpu = paste_masks_in_image(masks.cuda(), boxes.cuda(), (HEIGHT, WIDTH))
    assert on_gpu.is_cuda
    assert (on_gpu.cpu() != paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH))).sum() <= 2


def test_old_paste_includes_the_last_pixel():
    pasted = paste_mask_in_image_old(torch.ones(28, 28), torch.tensor([2.7, 3.1, 9.9, 6.2]), 12, 16, 0.5)
    expected = torch.zeros(12, 16, dtype=torch.uint8)
    expected[3:7, 2:10] = 1
    assert torch.equal(pasted, expected)
    cut = paste_mask_in_image_old(torch.ones(28, 28), torch.tensor([-3.0, -3, 1, 1]), 12, 16, 0.5)
    assert cut.sum() == 4


def test_padding_and_scaling_keep_the_content_in_place():
    padded, scale = pad_masks(torch.ones(2, 14, 14), 1)
    assert padded.shape == (2, 16, 16)
    assert padded.sum() == 2 * 14 * 14
    assert scale == 16 / 14
    grown = scale_boxes(torch.tensor([[0.0, 10, 14, 38]]), scale)
    torch.testing.assert_close(grown, torch.tensor([[-1.0, 8, 15, 40]]))
