"""Video object inpainting (VOIN, arXiv:2108.06765): the hidden part of an object in shape, motion and appearance."""
