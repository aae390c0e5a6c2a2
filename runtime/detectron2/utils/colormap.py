"""The Detectron palette: 74 colours that stay apart on photographs."""

import random

import numpy as np

__all__ = ["colormap", "random_color", "random_colors"]

# RGB in thousandths, eight colours a line: seven soft tones first, then steps through the RGB cube and dark shades.
# fmt: off
_PALETTE = np.array("""
0 447 741  850 325 98  929 694 125  494 184 556  466 674 188  301 745 933  635 78 184  300 300 300
600 600 600  1000 0 0  1000 500 0  749 749 0  0 1000 0  0 0 1000  667 0 1000  333 333 0
333 667 0  333 1000 0  667 333 0  667 667 0  667 1000 0  1000 333 0  1000 667 0  1000 1000 0
0 333 500  0 667 500  0 1000 500  333 0 500  333 333 500  333 667 500  333 1000 500  667 0 500
667 333 500  667 667 500  667 1000 500  1000 0 500  1000 333 500  1000 667 500  1000 1000 500  0 333 1000
0 667 1000  0 1000 1000  333 0 1000  333 333 1000  333 667 1000  333 1000 1000  667 0 1000  667 333 1000
667 667 1000  667 1000 1000  1000 0 1000  1000 333 1000  1000 667 1000  333 0 0  500 0 0  667 0 0
833 0 0  1000 0 0  0 167 0  0 333 0  0 500 0  0 667 0  0 833 0  0 1000 0
0 0 167  0 0 333  0 0 500  0 0 667  0 0 833  0 0 1000  0 0 0  143 143 143
857 857 857  1000 1000 1000
""".split(), dtype=np.float64).reshape(-1, 3)
# fmt: on
_PALETTE = (_PALETTE / 1000).astype(np.float32)


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """The whole palette.

    Args:
        rgb: RGB order; False gives BGR.
        maximum: the value of full intensity, 255 or 1.

    Returns:
        (74, 3) float32 in [0, maximum].
    """
    assert maximum in (255, 1), f"maximum is 255 or 1, got {maximum}"
    colors = _PALETTE * maximum
    return colors if rgb else colors[:, ::-1]


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """One colour, (3,) float32, drawn with NumPy's global generator; arguments as in :func:`colormap`."""
    return colormap(rgb, maximum)[np.random.randint(0, len(_PALETTE))]


def random_colors(N: int, rgb: bool = False, maximum: int = 255) -> list[np.ndarray]:
    """`N` different rows of the palette, drawn with Python's global generator; arguments as in :func:`colormap`.

    Raises:
        ValueError: if N exceeds the palette.
    """
    colors = colormap(rgb, maximum)
    return [colors[index] for index in random.sample(range(len(_PALETTE)), N)]
