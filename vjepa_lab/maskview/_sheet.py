"""Pictures in rows and columns on one image, with words beside and above them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _MARGIN = 6, 16
_PAPER, _INK, _DIM = (255, 255, 255), (26, 29, 33), (93, 102, 115)
_LINE = 19
_WORDS = 268
"pixels for the words beside a row"


class Row(NamedTuple):
    """Pictures beside each other."""

    name: str
    lines: Sequence[str]
    "what stands below the name"
    pictures: Sequence[np.ndarray]
    "uint8 (H, W, 3), all rows' of one size"


def sheet(head: Sequence[str], rows: Sequence[Row], *, side: int, title: str = "") -> Image.Image:
    """One image.

    Args:
        head: what stands above each column.
        rows: as many pictures in each as there are columns.
        side: pixels per side of a picture on the sheet.
        title: what stands above everything.
    """
    top = _MARGIN + (_LINE + 8 if title else 0)
    height = max(side, *(_LINE * (1 + len(row.lines)) for row in rows)) + _GAP
    size = (2 * _MARGIN + _WORDS + len(head) * (side + _GAP) - _GAP, top + _LINE + len(rows) * height - _GAP + _MARGIN)
    paper = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(paper)
    pen.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=_font(15, bold=True))
    left = _MARGIN + _WORDS
    for column, text in enumerate(head):
        pen.text((left + column * (side + _GAP), top - 2), text, fill=_DIM, font=_font(12))
    for number, row in enumerate(rows):
        y = top + _LINE + number * height
        for line, text in enumerate([row.name, *row.lines]):
            style = {"fill": _DIM, "font": _font(12)} if line else {"fill": _INK, "font": _font(13, bold=True)}
            pen.text((_MARGIN, y + line * _LINE), shortened(text, style["font"]), **style)
        for column, pixels in enumerate(row.pictures):
            paper.paste(resized(pixels, side), (left + column * (side + _GAP), y))
    return paper


def resized(pixels: np.ndarray, side: int) -> Image.Image:
    """A picture (H, W, 3) of ``side`` pixels: averaged where it shrinks, in blocks where it grows."""
    how = Image.Resampling.BOX if pixels.shape[0] > side else Image.Resampling.NEAREST
    return Image.fromarray(pixels).resize((side, side), how)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int = _WORDS - 12) -> str:
    """``text``, its end cut off where it does not fit."""
    while text and font.getlength(text) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text


@lru_cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along."""
    name = f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
