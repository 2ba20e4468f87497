"""Curves and scatter plots: values land where they belong, gaps stay gaps, the front is an outline of stairs."""

import math
import re

import pytest

from vjepa_lab.report.charts import Mark, Point, Series, curves, legend, scatter, span, ticks
from vjepa_lab.report.page import Value

LINE = Series("a & <b>", [Point(0, 0.0, -0.1, 0.1), Point(1, 0.5, 0.4, 0.6), Point(2, 1.0, 0.9, 1.1)])


def numbers(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def by_class(reader, tag, word):
    return [a for a in reader.of(tag) if word in (a.get("class") or "").split()]


def test_a_line_rises_from_left_to_right_and_its_middle_is_in_the_middle(read):
    reader = read(curves([LINE], title="t", x="layer", y="R²"))
    (x0, y0), (x1, y1), (x2, y2) = numbers(by_class(reader, "path", "solid")[0]["d"])
    assert x0 < x1 < x2
    assert y0 > y1 > y2  # downwards in pixels
    assert (x0 + x2) / 2 == pytest.approx(x1, abs=0.1)
    assert (y0 + y2) / 2 == pytest.approx(y1, abs=0.1)
    assert [x0, x2] == pytest.approx([52, 440 - 12], abs=0.1)


def test_a_point_says_its_name_place_and_interval(read):
    reader = read(curves([LINE]))
    assert "a & <b>, 1: 0.500 [0.400, 0.600]" in reader.text
    assert len(reader.of("circle")) == 3


def test_the_band_is_the_interval_up_and_back(read):
    reader = read(curves([LINE], y_range=(-1.0, 2.0), size=(164, 164)))
    band = numbers(by_class(reader, "path", "band")[0]["d"])
    assert len(band) == 6
    heights = [y for _, y in band]
    high = [126 - (v + 1) / 3 * 100 for v in (0.1, 0.6, 1.1, 0.9, 0.4, -0.1)]
    assert heights == pytest.approx(high, abs=0.1)


def test_what_is_not_finite_interrupts_the_line(read):
    points = [Point(0, 1.0), Point(1, 2.0), Point(2, math.nan), Point(3, 1.0), Point(4, 2.0)]
    reader = read(curves([Series("a", points)], named=False))
    assert [len(numbers(p["d"])) for p in by_class(reader, "path", "solid")] == [2, 2]
    assert "nan" not in curves([Series("a", points)])


def test_nothing_to_draw_is_said(read):
    assert read(curves([Series("a", [Point(0, math.nan)])], title="t")).text == ["t: nothing to draw"]
    assert read(scatter([Mark("a", Value(math.nan), Value(1.0))], title="t")).text == ["t: nothing to draw"]


def test_one_point_or_equal_values_are_drawn(read):
    for points in ([Point(3, 0.5)], [Point(0, 0.0), Point(1, 0.0)]):
        assert len(read(curves([Series("a", points)])).of("circle")) == len(points)


def test_names_and_looks_are_those_of_the_lines(read):
    series = [LINE, Series("untrained", LINE.points, "dashed", 5)]
    reader = read(legend(series))
    assert reader.text == ["a & <b>", "untrained"]
    assert [p["class"] for p in reader.of("path")] == ["line s0 solid", "line s5 dashed"]
    assert len(by_class(read(curves(series)), "path", "s5")) == 2  # the line and its name


def test_the_span_holds_intervals_with_air():
    low, high = span([LINE])
    assert -0.2 < low < -0.1
    assert 1.1 < high < 1.2
    assert span([]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0.0, 1.0, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.1, 0.13, False, [-0.1, -0.05, 0.0, 0.05, 0.1]),
        (0.0, 5.0, True, [0, 1, 2, 3, 4, 5]),
        (0.0, 2.0, True, [0, 1, 2]),
        (18.0, 33.0, False, [20, 25, 30]),
    ],
)
def test_ticks_are_round_numbers(low, high, whole, expected):
    assert ticks(low, high, whole=whole) == pytest.approx(expected)


def test_the_front_is_a_stair_and_its_points_are_filled(read):
    marks = [
        Mark("c", Value(1.0), Value(3.0), True),
        Mark("a", Value(3.0, 2.9, 3.1), Value(1.0), True),
        Mark("b", Value(2.0), Value(2.0), True),
        Mark("worse", Value(1.5), Value(1.5)),
    ]
    reader = read(scatter(marks, x="PSNR", y="R²"))
    stairs = re.findall(r"([VH])([\d.]+)", by_class(reader, "path", "dashed")[0]["d"])
    assert "".join(step for step, _ in stairs) == "VHVHVHV"
    right = [float(at) for step, at in stairs if step == "H"]
    down = [float(at) for step, at in stairs if step == "V"]
    assert right == sorted(right)
    assert down == sorted(down)
    assert len(by_class(reader, "path", "f0")) == 3
    assert len(by_class(reader, "path", "hollow")) == 1
    assert len(by_class(reader, "path", "whisker")) == 1
    assert {"a", "b", "c", "worse", "a: 3.000, 1.000"} <= set(reader.text)


def test_kinds_have_shapes_and_a_legend_of_them(read):
    marks = [Mark(str(i), Value(i / 1), Value(1.0), kind=kind) for i, kind in enumerate(["decoded", "rollout"])]
    reader = read(scatter(marks))
    shapes = [re.sub(r"[\d. -]", "", p["d"]) for p in by_class(reader, "path", "hollow")]
    assert shapes[0] != shapes[1]
    assert shapes[:2] == shapes[2:]
    assert {"decoded", "rollout"} <= set(reader.text)


def test_names_of_close_points_do_not_lie_on_each_other(read):
    marks = [Mark("left one", Value(1.0), Value(1.0)), Mark("left two", Value(1.001), Value(1.001))]
    marks.append(Mark("far", Value(9.0), Value(9.0)))
    names = [t for t in read(scatter(marks)).of("text") if t.get("class") == "name"]
    assert abs(float(names[0]["y"]) - float(names[1]["y"])) >= 10
