"""Reports: one HTML file per result, with all pictures inside, to be opened from disk and sent by mail.

No script, no server and nothing fetched: a page forbids itself the network (its content security policy), and every
text that is not ours is escaped. Pieces are strings of markup (``Html``) that ``page`` puts together:

    page(title, [Section("Loss", curves([Series("run", points)], x="step"))], facts={"checkpoint": path})

``page`` holds the frame and tables, ``charts`` curves and scatter plots as SVG, ``pictures`` images and films as PNG,
``film`` features of clips as colours, ``probes`` the pages of probe results and of compared arms; ``text`` tables for a
terminal.
"""

from vjepa_lab.report.charts import Mark, Point, Series, curves, legend, scatter
from vjepa_lab.report.film import PcaFilm, pca_film
from vjepa_lab.report.page import (
    Html,
    Section,
    Value,
    details,
    facts,
    heading,
    interval,
    page,
    prose,
    side_by_side,
    table,
)
from vjepa_lab.report.pictures import film, gallery, picture
from vjepa_lab.report.probes import arms, films, probe_page, probe_sections

__all__ = [
    "Html",
    "Mark",
    "PcaFilm",
    "Point",
    "Section",
    "Series",
    "Value",
    "arms",
    "curves",
    "details",
    "facts",
    "film",
    "films",
    "gallery",
    "heading",
    "interval",
    "legend",
    "page",
    "pca_film",
    "picture",
    "probe_page",
    "probe_sections",
    "prose",
    "scatter",
    "side_by_side",
    "table",
]
