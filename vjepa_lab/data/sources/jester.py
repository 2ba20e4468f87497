"""Jester: CSV files ``id;label`` without a header, and a folder of JPEG pictures or a WebM per video.

    jester-v1-train.csv      34870;Drumming Fingers
    jester-v1-labels.csv     the 27 classes, one per line, in the order of their numbers
    34870/00001.jpg ...      12 pictures per second; or 34870.webm

A test file has ids alone: no labels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources._annotated import Entry, expect_file, expect_folder, find_layout, to_table
from vjepa_lab.data.sources.listing import ListingReader
from vjepa_lab.registry import SOURCES

_LABELS = "jester-v1-labels.csv"
LAYOUTS = ("{id}", "{id}.webm", "{id}.mp4")


@SOURCES.register
@dataclass
class Jester:
    """Jester as its CSV files describe it."""

    path: str = ""
    "jester-v1-train.csv or another split"
    root: str = ""
    "folder of the videos"
    weight: float = 1.0
    "share of the mix"
    labels: str = ""
    "file with one class name per line; default: jester-v1-labels.csv beside path, else the sorted names of path"
    rate: float = 12.0
    "pictures per second of a folder"
    subset: dict[str, int] = field(default_factory=dict)
    "{per_class: n} keeps the first n videos of each class, by ascending id"

    def open(self, spec: ClipSpec) -> ListingReader:
        """Read the CSV.

        Raises:
            ValueError: a file or the folder is not there, or a line cannot be understood.
        """
        if self.rate <= 0:
            raise ValueError(f"jester: rate: got {self.rate}, expected pictures per second above 0")
        file = expect_file("jester", self.path, "a CSV file of id;label")
        root = expect_folder("jester", self.root, "the folder of the videos")
        found: list[tuple[str, str, str]] = []
        for number, line in enumerate(Path(file).read_text(encoding="utf-8-sig").splitlines(), 1):
            name, _, label = (cell.strip() for cell in line.partition(";"))
            if not line.strip():
                continue
            if not name.isdecimal() or ";" in label:
                raise ValueError(f"jester: {file}:{number}: got '{line[:80]}', expected id;label")
            found.append((name, label, f"{file}:{number}"))
        layout = find_layout("jester", root, LAYOUTS, [{"id": name} for name, _, _ in found]) if found else "{id}"
        entries = [Entry(name, layout.format(id=name), label, where) for name, label, where in found]
        beside = os.path.join(os.path.dirname(file), _LABELS)
        labels = self.labels or (beside if Path(beside).is_file() else "")
        table = to_table("jester", file, entries, root=root, classes=labels, subset=self.subset, rate=self.rate)
        return ListingReader(table, spec, [file], kind="jester")
