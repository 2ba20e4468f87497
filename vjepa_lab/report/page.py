"""The frame of a report: a page of sections, tables, numbers with their intervals.

Whatever comes from outside is text and is escaped; ``Html`` alone is taken as markup, and only functions of this
package make it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

_CSS = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1a1d21;--dim:#5d6673;--line:#d9dee5;--soft:#f4f6f9;
--c0:#1f6feb;--c1:#c2410c;--c2:#15803d;--c3:#7c3aed;--c4:#b4236b;--c5:#0e7490;--c6:#8a6100;--c7:#4b5563}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e4e7eb;--dim:#9aa5b1;--line:#323942;--soft:#1c2127;
--c0:#6cb0ff;--c1:#ff9d5c;--c2:#5fd38d;--c3:#b79bff;--c4:#ff8fc0;--c5:#5cd0e6;--c6:#e8c15a;--c7:#b0b8c3}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1.25rem 4rem;max-width:76rem;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .75rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.25rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.4rem 0;max-width:50rem}
.dim,figcaption,caption,.ci{color:var(--dim)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.5rem 0}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
caption{text-align:left;padding:.2rem 0;font-size:.87rem}
th,td{padding:.28rem .8rem .28rem 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line);
vertical-align:top}
th:first-child,td:first-child{text-align:left}td.text{text-align:left;white-space:normal;overflow-wrap:anywhere}
thead th{color:var(--dim);font-weight:600;border-bottom:2px solid var(--line)}
tbody th{font-weight:400}
tbody tr:hover{background:var(--soft)}
.ci{font-size:.85em;white-space:nowrap}td .ci{display:block}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--dim)}
figure{margin:.5rem 0}figcaption{font-size:.87rem;margin-top:.2rem;max-width:46rem}
img{display:block;max-width:100%;height:auto;image-rendering:pixelated;background:var(--soft)}
.row{display:flex;flex-wrap:wrap;gap:1rem 1.5rem;align-items:flex-start}
.gallery{display:grid;grid-template-columns:max-content 1fr;gap:.35rem .8rem;align-items:center}
.gallery span{color:var(--dim);font-size:.87rem}
svg{display:block;max-width:100%;height:auto;font:11px system-ui,"Noto Sans","DejaVu Sans",sans-serif}
svg text{fill:var(--dim)}svg .title{fill:var(--fg);font-size:12.5px;font-weight:600}
svg .name{fill:var(--fg);stroke:var(--bg);stroke-width:3px;paint-order:stroke}
.axis{stroke:var(--dim);fill:none}.gridline{stroke:var(--line);fill:none}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.band{stroke:none;opacity:.16}.whisker{stroke-width:1.1}
.hollow{fill:var(--bg)}
.dashed{stroke-dasharray:6 4}.dotted{stroke-dasharray:1.5 3.5;stroke-linecap:round}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;margin:.3rem 0;padding:0;font-size:.87rem}
.legend li{display:flex;align-items:center;gap:.4rem}
@media print{details{display:block}body{max-width:none}}
""" + "".join(f".s{i}{{stroke:var(--c{i})}}.f{i}{{fill:var(--c{i})}}" for i in range(8))

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Markup that is finished: it is not escaped again."""

    __slots__ = ()


class Value(NamedTuple):
    """A number with its interval, NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def clear(self) -> bool:
        """Whether there is an interval that leaves out 0."""
        return self.bounded and (self.low > 0 or self.high < 0)


class Section(NamedTuple):
    """A part of a page under a heading."""

    title: str
    body: Html


def page(title: str, sections: Sequence[Section], *, facts: Mapping[str, object] | None = None) -> str:
    """A whole document.

    Args:
        facts: what stands below the title: name -> value.
    """
    head = _facts(facts) if facts else ""
    body = "".join(f"<section><h2>{escape(s.title)}</h2>{s.body}</section>\n" for s in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>{head}</header>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def facts(values: Mapping[str, object]) -> Html:
    """A list of names and values."""
    return Html(_facts(values))


def prose(text: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{escape(text)}</p>")


def heading(text: str) -> Html:
    """A heading within a section."""
    return Html(f"<h3>{escape(text)}</h3>")


def details(summary: str, *parts: Html) -> Html:
    """What is folded away until it is asked for."""
    return Html(f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>")


def side_by_side(*parts: Html) -> Html:
    """Pieces beside each other, as many as fit on a line."""
    return Html(f'<div class="row">{"".join(parts)}</div>')


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "") -> Html:
    """A table whose first column names its rows.

    Args:
        rows: cells are numbers, ``Html`` (see ``interval``), or text; None is an empty cell.

    Raises:
        ValueError: a row has not as many cells as the head.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"table: expected {len(head)} cells ({', '.join(head)}), got {len(row)}: {list(row)}")
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = [f'<tr><th scope="row">{_cell(row[0])}</th>{"".join(map(_data, row[1:]))}</tr>' for row in rows]
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(lines)
    return Html(f'<div class="wide"><table>{said}<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>')


def interval(value: Value, *, bold: bool = False, signed: bool = False) -> Html:
    """A number, and its interval where there is one.

    Args:
        signed: write a plus before positive numbers, for differences.
    """

    def written(x: float) -> str:
        return "+" * (signed and x > 0) + number(x)

    text = f"<b>{written(value.value)}</b>" if bold else written(value.value)
    if value.bounded:
        text += f' <span class="ci">[{written(value.low)}, {written(value.high)}]</span>'
    return Html(text)


def number(value: float) -> str:
    """Three decimals, or a few digits of what is large or tiny; whole numbers as they are; a minus, not a hyphen."""
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value)
    if isinstance(value, int):
        text = str(value)
    else:
        text = f"{value:.3f}" if 5e-4 <= size < 1e5 or size == 0 else f"{value:.3g}"
    return text.replace("-", "−")


def _facts(values: Mapping[str, object]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(str(k))}</dt><dd>{_cell(v)}</dd>" for k, v in values.items()) + "</dl>"


def _data(value: object) -> str:
    text = isinstance(value, str) and not isinstance(value, Html)
    return f'<td class="text">{_cell(value)}</td>' if text else f"<td>{_cell(value)}</td>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Html):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return escape(str(value))
