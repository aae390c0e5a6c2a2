"""Pixel statistics of ImageNet."""

# Backbones that came from MSRA or Detectron carry the deviation in their first convolution: theirs is 1.
constants = {
    "imagenet_bgr256_mean": [103.53, 116.28, 123.675],
    "imagenet_bgr256_std": [1.0, 1.0, 1.0],
    "imagenet_rgb256_mean": [123.675, 116.28, 103.53],
    "imagenet_rgb256_std": [58.395, 57.12, 57.375],
}
