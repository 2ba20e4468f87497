"""Pictures and words have their places on a sheet."""

from __future__ import annotations

import numpy as np
import pytest

from vjepa_lab.maskview._sheet import Row, _font, resized, sheet, shortened


def picture(value: int, side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), value, dtype=np.uint8)


def test_pictures_stand_in_their_rows_and_columns() -> None:
    rows = [Row("first", [], [picture(10), picture(20)]), Row("second", ["said"], [picture(30), picture(40)])]
    pixels = np.asarray(sheet(["left", "right"], rows, side=40))
    for value in (10, 20, 30, 40):
        assert (pixels == value).all(-1).sum() >= 40 * 40
    at = {value: np.argwhere((pixels == value).all(-1)).mean(0) for value in (10, 20, 30, 40)}
    assert at[10][0] == at[20][0] < at[30][0] == at[40][0]
    assert at[10][1] == at[30][1] < at[20][1] == at[40][1]


def test_words_make_a_row_as_high_as_they_need() -> None:
    low = sheet(["a"], [Row("name", [], [picture(0)])], side=40)
    high = sheet(["a"], [Row("name", ["line"] * 6, [picture(0)])], side=40)
    assert high.height > low.height + 60
    assert sheet(["a"], [Row("name", [], [picture(0)])], side=40, title="above").height > low.height


def test_a_word_that_is_too_long_is_cut() -> None:
    font = _font(12)
    short = shortened("interaction_blocks " * 5, font, 100)
    assert short.startswith("interaction")
    assert short.endswith("…")
    assert font.getlength(short) <= 100
    assert shortened("tube", font, 100) == "tube"


@pytest.mark.parametrize("side", [4, 16])
def test_a_picture_shrinks_by_means_and_grows_in_blocks(side: int) -> None:
    checks = picture(0)
    checks[::2, ::2] = checks[1::2, 1::2] = 200
    values = np.unique(np.asarray(resized(checks, side)))
    assert values.tolist() == ([100] if side == 4 else [0, 200])
