"""COIN: one JSON file of instructional videos of 180 tasks.

    {"database": {"-8NaVGEccgc": {"subset": "training", "class": "MakeCoffee", "recipe_type": 58,
                                  "start": 4.1, "end": 80.2, "duration": 90.0, "annotation": [...]}}}

Videos are ``<root>/<id>.mp4``, or ``<root>/<recipe_type>/<id>.mp4`` as the official script downloads them.

Decisions:
- The label is the task of the video. Tasks are numbered by the sorted names of the whole file, whatever the split.
- ``part: whole`` shows the whole video, as the lists of V-JEPA 2 do; ``annotated`` shows what is between ``start`` and
  ``end``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources._annotated import (
    Entry,
    expect_file,
    expect_folder,
    field_of,
    find_layout,
    load_json,
    only_split,
    to_table,
)
from vjepa_lab.data.sources.listing import ListingReader
from vjepa_lab.registry import SOURCES

LAYOUTS = ("{id}.mp4", "{recipe}/{id}.mp4", "{id}.webm", "{recipe}/{id}.webm", "{id}.mkv", "{recipe}/{id}.mkv")


@SOURCES.register
@dataclass
class Coin:
    """COIN as its JSON file describes it."""

    path: str = ""
    "COIN.json"
    root: str = ""
    "folder of the videos; default: that of path"
    weight: float = 1.0
    "share of the mix"
    split: str = ""
    "training or testing; default: all"
    part: Literal["whole", "annotated"] = "whole"
    "which part of a video is shown"
    subset: dict[str, int] = field(default_factory=dict)
    "{per_class: n} keeps the first n videos of each task, by ascending id"

    def open(self, spec: ClipSpec) -> ListingReader:
        """Read the JSON file.

        Raises:
            ValueError: the file or the folder is not there, or a record cannot be understood.
        """
        if self.part not in ("whole", "annotated"):
            raise ValueError(f"coin: part: got '{self.part}', expected whole or annotated")
        file = expect_file("coin", self.path, "COIN.json")
        root = expect_folder("coin", self.root or os.path.dirname(file) or ".", "the folder of the videos")
        content = load_json("coin", file, dict, "an object with 'database'")
        records = list(field_of("coin", file, content, "database", dict).items())
        names, subsets, values = [], [], []
        for name, record in records:
            where = f"{file}: {name}"
            names.append(field_of("coin", where, record, "class"))
            subsets.append(field_of("coin", where, record, "subset"))
            values.append({"id": name, "recipe": record.get("recipe_type", "")})
        rows = only_split("coin", file, self.split, subsets)
        layout = find_layout("coin", root, LAYOUTS, [values[i] for i in rows]) if rows else LAYOUTS[0]
        entries = [self._entry(file, records[i], layout.format(**values[i]), names[i]) for i in rows]
        table = to_table("coin", file, entries, root=root, classes=sorted(set(names)), subset=self.subset)
        return ListingReader(table, spec, [file], kind="coin")

    def _entry(self, file: str, named: tuple[str, object], path: str, label: str) -> Entry:
        name, record = named
        where = f"{file}: {name}"
        if self.part == "whole":
            return Entry(name, path, label, where)
        start, end = (float(field_of("coin", where, record, word, (int, float))) for word in ("start", "end"))
        if end <= start:
            raise ValueError(f"coin: {where}: end: got {end:g} s, expected later than start, {start:g} s")
        return Entry(name, path, label, where, start, end)
