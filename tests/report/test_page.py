"""Pages: what comes from outside is text, tables keep their columns, numbers are written as one reads them."""

import math

import pytest

from vjepa_lab.report.page import Html, Section, Value, details, facts, heading, interval, number, page, prose, table

EVIL = '<script>alert("1")</script> & <b>'


@pytest.mark.parametrize(
    "made",
    [
        lambda: page(EVIL, [Section(EVIL, prose(EVIL))], facts={EVIL: EVIL}),
        lambda: table([EVIL, "b"], [[EVIL, EVIL]], caption=EVIL),
        lambda: details(EVIL, heading(EVIL), facts({EVIL: EVIL})),
    ],
    ids=["page", "table", "details"],
)
def test_what_comes_from_outside_is_text(made, read):
    reader = read(made())
    assert reader.text.count(EVIL) >= 3
    assert "b" not in [tag for tag, _ in reader.seen]


def test_the_reader_of_these_tests_would_notice(read):
    for bad in (EVIL, "<p><b></p></b>", '<img src="https://example.org/a.png">', "<p>", "</p>", '<p onclick="x">'):
        with pytest.raises(AssertionError):
            read(bad)


def test_a_page_is_a_whole_document_that_forbids_itself_the_network(read):
    reader = read(page("t", [Section("one", prose("x")), Section("two", prose("y"))], facts={"date": "today"}))
    assert [tag for tag, _ in reader.seen[:2]] == ["html", "head"]
    policy = next(m["content"] for m in reader.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert reader.text == ["t", "t", "date", "today", "one", "x", "two", "y"]


def test_a_page_has_both_a_light_and_a_dark_dress():
    style = page("t", [])
    assert "color-scheme:light dark" in style
    light, dark = style.split("prefers-color-scheme:dark")
    names = ["--bg", "--fg", "--dim", "--line", "--soft", *(f"--c{i}" for i in range(8))]
    assert all(f"{name}:#" in light and f"{name}:#" in dark.split("}}")[0] for name in names)


def test_a_table_has_a_cell_per_column_and_takes_markup_only_as_html(read):
    reader = read(table(["a", "b", "c", "d"], [["x", 1.0, Html("<b>2</b>"), None]]))
    assert len(reader.of("th")) == 5
    assert len(reader.of("td")) == 3
    assert reader.text == ["a", "b", "c", "d", "x", "1.000", "2"]
    with pytest.raises(ValueError, match=r"table: expected 2 cells \(a, b\), got 1"):
        table(["a", "b"], [["x"]])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8125, "0.812"),
        (23.4, "23.400"),
        (-0.5, "−0.500"),
        (0.00999, "0.010"),
        (0.0, "0.000"),
        (512, "512"),
        (1e-4, "0.0001"),
        (1.2345e6, "1.23e+06"),
        (math.nan, "n/a"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers_are_written_as_one_reads_them(value, text):
    assert number(value) == text


def test_an_interval_stands_where_there_is_one(read):
    assert read(interval(Value(0.5, 0.4, 0.6), bold=True)).text == ["0.500", "[0.400, 0.600]"]
    assert interval(Value(0.5, 0.4, 0.6), bold=True).startswith("<b>0.500</b>")
    assert interval(Value(0.5)) == "0.500"
    assert interval(Value(0.5, 0.4)) == "0.500"
    assert read(interval(Value(0.5, -0.4, 0.6), signed=True)).text == ["+0.500", "[−0.400, +0.600]"]
