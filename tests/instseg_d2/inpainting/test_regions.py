import pytest
import torch

from instseg_d2.inpainting.regions import contour_band, enlarged_boxes, erode, region_mean


def square(size=12, start=4, stop=9):
    mask = torch.zeros(1, 1, size, size)
    mask[..., start:stop, start:stop] = 1
    return mask


def test_erosion_leaves_the_border_of_the_image_alone():
    assert erode(torch.ones(2, 1, 5, 6), 2).eq(1).all()
    assert erode(square(), 1).equal(square(start=5, stop=8))
    assert erode(square(), 0).equal(square())


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_band_is_as_wide_as_asked(width):
    half_plane = torch.zeros(1, 1, 16, 16)
    half_plane[..., 8:] = 1
    band = contour_band(half_plane, width)
    assert band[0, 0, 5].sum() == width
    assert (band * half_plane)[0, 0, 5].sum() == width - width // 2
    assert contour_band(torch.ones(1, 1, 8, 8), width).sum() == 0


def test_region_mean_is_that_of_sttn():
    values, region = torch.rand(2, 3, 3, 6, 7), (torch.rand(2, 3, 1, 6, 7) > 0.5).float()
    torch.testing.assert_close(region_mean(values, region), (values * region).mean() / region.mean())


def test_region_mean_of_nothing_keeps_the_graph():
    values = torch.rand(1, 3, 4, 4, requires_grad=True)
    loss = region_mean(values, torch.zeros(1, 1, 4, 4))
    loss.backward()
    assert loss == 0
    assert values.grad.eq(0).all()


def test_boxes():
    masks = torch.zeros(2, 1, 20, 30)
    masks[0, 0, 8:12, 10] = masks[0, 0, 9, 6:14] = 1  # 4 high, 8 wide
    boxes = enlarged_boxes(masks, 1.5)
    rows, columns = boxes[0, 0].nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 12, 4, 15)
    assert boxes[0].sum() == 6 * 12
    assert boxes[1].sum() == 0
