"""Tables for a terminal."""

from __future__ import annotations


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a table with columns of equal width."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
