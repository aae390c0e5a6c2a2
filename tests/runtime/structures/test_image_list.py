"""Padding of images into a batch."""

import pytest
import torch
from detectron2.structures import ImageList


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({}, {1: (10, 17), 3: (23, 17)}),
        ({"size_divisibility": 8}, {1: (16, 24), 3: (24, 24)}),
        ({"padding_constraints": {"square_size": 40}}, {1: (40, 40), 3: (40, 40)}),
        ({"padding_constraints": {"size_divisibility": 32}}, {1: (32, 32), 3: (32, 32)}),
    ],
)
def test_batch_holds_the_images_and_padding(count, options, sides):
    images = [torch.rand(3, h, w) for h, w in ((10, 17), (23, 9), (5, 5))][:count]
    batch = ImageList.from_tensors(images, pad_value=2.0, **options)
    assert batch.tensor.shape == (count, 3, *sides[count])
    assert len(batch) == count
    assert [tuple(size) for size in batch.image_sizes] == [tuple(image.shape[1:]) for image in images]
    for i, image in enumerate(images):
        assert torch.equal(batch[i], image)
        assert (batch.tensor[i] == 2.0).sum() == batch.tensor[i].numel() - image.numel()


def test_batch_does_not_share_memory_and_passes_gradients():
    image = torch.rand(1, 4, 4, requires_grad=True)
    batch = ImageList.from_tensors([image], 4)
    batch.tensor.sum().backward()
    assert torch.equal(image.grad, torch.ones_like(image))
    assert batch.tensor.data_ptr() != image.data_ptr()


def test_other_dimensions_and_bad_input():
    masks = [torch.rand(4, 6), torch.rand(5, 2)]
    assert ImageList.from_tensors(masks).tensor.shape == (2, 5, 6)
    assert ImageList.from_tensors(masks).to(torch.float64).tensor.dtype == torch.float64
    for bad in ([], [torch.rand(3, 4, 4), torch.rand(1, 4, 4)]):
        with pytest.raises(AssertionError):
            ImageList.from_tensors(bad)


@pytest.mark.bundled_only
def test_image_larger_than_the_square_is_refused():
    with pytest.raises(ValueError, match="square_size=8"):
        ImageList.from_tensors([torch.rand(1, 4, 9)], padding_constraints={"square_size": 8})
