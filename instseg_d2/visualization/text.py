"""Text on pictures, in a real font: names of classes may have letters that OpenCV's strokes lack."""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # DejaVu Sans, which comes with matplotlib: the same on every machine.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def text_width(text: str, size: int) -> int:
    """Pixels that a line of text takes."""
    return round(_font(size).getlength(text))


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return sum(_font(size).getmetrics())


def shorten(text: str, size: int, width: int) -> str:
    """The text, or its beginning with an ellipsis where it is wider than `width` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def wrap(text: str, size: int, width: int) -> list[str]:
    """Break a text between words into lines of at most `width` pixels; single words are shortened."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shorten(line, size, width) for line in lines]


def write(
    canvas: np.ndarray, text: str, corner: tuple[int, int], size: int, colour: tuple[int, int, int] = (0, 0, 0)
) -> None:
    """Write a line of text, in place.

    Args:
        canvas: (H, W, 3) uint8, BGR.
        text: one line; what does not fit is cut off.
        corner: x and y of its upper left corner, pixels.
        size: of the font, pixels.
        colour: BGR.
    """
    x, y = corner
    height, width = canvas.shape[:2]
    right, below = min(x + text_width(text, size) + 2, width), min(y + line_height(size), height)
    if right <= x or below <= y:
        return
    part = Image.fromarray(np.ascontiguousarray(canvas[y:below, x:right]))
    ImageDraw.Draw(part).text((0, 0), text, font=_font(size), fill=colour)
    canvas[y:below, x:right] = np.asarray(part)
