"""Tables for a terminal, letter by letter."""

from vjepa_lab.report.text import aligned


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_with_their_last():
    rows = [["metric", "value", "units"], ["a", "-0.125", "3"], ["motion/velocity", "", ""]]
    assert aligned(rows) == [
        "metric           value   units",
        "a                -0.125  3",
        "motion/velocity",
    ]
