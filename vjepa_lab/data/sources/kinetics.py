"""Kinetics-400, 600 and 700: a CSV of YouTube excerpts, and a folder of excerpts that are cut already.

    label,youtube_id,time_start,time_end,split
    testifying,---QUuC4vJs,84,94,train

The files are ``<youtube_id>_<start>_<end>.mp4`` with six digits each, all in one folder, in one per split, or in one
per class (whose name may have underscores in place of spaces). Which it is is told by the first videos.

Decision. Classes are numbered by their sorted names, as everywhere. The names are those of the file, before a split is
taken: give ``classes`` where a file has not all of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources._annotated import (
    Entry,
    expect_file,
    expect_folder,
    find_layout,
    number_of,
    only_split,
    read_csv,
    to_table,
)
from vjepa_lab.data.sources.listing import ListingReader
from vjepa_lab.registry import SOURCES

COLUMNS = ("youtube_id", "time_start", "time_end")
_NAME = "{id}_{start:06d}_{end:06d}.mp4"
LAYOUTS = (_NAME, "{split}/" + _NAME, "{label}/" + _NAME, "{word}/" + _NAME, "{split}/{label}/" + _NAME)


@SOURCES.register
@dataclass
class Kinetics:
    """Kinetics as its CSV files describe it."""

    path: str = ""
    "the CSV"
    root: str = ""
    "folder of the excerpts; default: that of the CSV"
    weight: float = 1.0
    "share of the mix"
    split: str = ""
    "only rows whose column split is this; default: all"
    classes: str = ""
    "file with one class name per line: fixes the numbers of the labels"
    files: str = ""
    "name of a file, as '{label}/{id}_{start:06d}_{end:06d}.mp4'; default: see the module's text"
    subset: dict[str, int] = field(default_factory=dict)
    "{per_class: n} keeps the first n excerpts of each class, by ascending id"

    def open(self, spec: ClipSpec) -> ListingReader:
        """Read the CSV.

        Raises:
            ValueError: the CSV or the excerpts are not there, or a row cannot be understood.
        """
        file = expect_file("kinetics", self.path, "a CSV file")
        root = expect_folder("kinetics", self.root or os.path.dirname(file) or ".", "the folder of the excerpts")
        rows = list(read_csv("kinetics", file, COLUMNS, optional=("label", "split")))
        if self.split and rows and "split" not in rows[0][1]:
            raise ValueError(f"kinetics: {file}: split: got '{self.split}', but the file has no column split")
        names = sorted({row.get("label", "") for _, row in rows} - {""})
        rows = [rows[i] for i in only_split("kinetics", file, self.split, [row.get("split", "") for _, row in rows])]
        values = [self._values(where, row) for where, row in rows]
        if values:
            layout = self.files or find_layout("kinetics", root, LAYOUTS, values)
            try:
                paths = [layout.format(**value) for value in values]
            except (KeyError, ValueError, IndexError) as error:
                raise ValueError(
                    f"kinetics: files: got '{layout}' ({error!r}), expected a pattern of {{id}}, {{start}}, {{end}}, "
                    "{label}, {word}, {split}"
                ) from None
        else:
            paths = []
        entries = [
            Entry(path.rpartition("/")[2], path, row.get("label", ""), where)
            for path, (where, row) in zip(paths, rows, strict=True)
        ]
        table = to_table("kinetics", file, entries, root=root, classes=self.classes or names, subset=self.subset)
        return ListingReader(table, spec, [file], kind="kinetics")

    @staticmethod
    def _values(where: str, row: dict[str, str]) -> dict[str, str | int]:
        """What a file name may be made of."""
        times = {name: round(number_of("kinetics", where, name, row[name])) for name in ("time_start", "time_end")}
        label = row.get("label", "")
        return {
            "id": row["youtube_id"],
            "start": times["time_start"],
            "end": times["time_end"],
            "label": label,
            "word": label.replace(" ", "_"),
            "split": row.get("split", ""),
        }
