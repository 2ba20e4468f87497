"""Diving-48 (V2): one JSON list per split, and one MP4 per dive.

    Diving48_V2_train.json   [{"vid_name": "_8Vy3dlHg2w_00000", "label": 12, "start_frame": 0, "end_frame": 155}, ...]
    Diving48_vocab.json      the words of each of the 48 classes, in order; needed for their names alone
    <vid_name>.mp4

The files are cut to a dive already, so the frame numbers are not used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources._annotated import Entry, expect_file, expect_folder, field_of, load_json, to_table
from vjepa_lab.data.sources.listing import ListingReader
from vjepa_lab.registry import SOURCES

_VOCABULARY = "Diving48_vocab.json"


@SOURCES.register
@dataclass
class Diving48:
    """Diving-48 as its JSON files describe it."""

    path: str = ""
    "Diving48_V2_train.json or Diving48_V2_test.json, by whatever name"
    root: str = ""
    "folder of the MP4 files"
    weight: float = 1.0
    "share of the mix"
    vocabulary: str = ""
    "Diving48_vocab.json; default: the one beside path, if there is one"
    subset: dict[str, int] = field(default_factory=dict)
    "{per_class: n} keeps the first n dives of each class, by ascending name"

    def open(self, spec: ClipSpec) -> ListingReader:
        """Read the JSON file.

        Raises:
            ValueError: a file or the folder is not there, or a record cannot be understood.
        """
        file = expect_file("diving48", self.path, "a JSON list of {vid_name, label}")
        root = expect_folder("diving48", self.root, "the folder of the .mp4 files")
        entries = []
        for number, record in enumerate(load_json("diving48", file, list, "a list of {vid_name, label}")):
            where = f"{file}: record {number}"
            name = field_of("diving48", where, record, "vid_name")
            entries.append(Entry(name, f"{name}.mp4", field_of("diving48", where, record, "label", int), where))
        table = to_table("diving48", file, entries, root=root, classes=self._classes(file), subset=self.subset)
        return ListingReader(table, spec, [file], kind="diving48")

    def _classes(self, file: str) -> list[str] | None:
        beside = os.path.join(os.path.dirname(file), _VOCABULARY)
        if not self.vocabulary and not Path(beside).is_file():
            return None
        vocabulary = expect_file("diving48", self.vocabulary or beside, "the JSON list of the classes", "vocabulary")
        found = load_json("diving48", vocabulary, list, "a list of the classes' words")
        return [" ".join(words) if isinstance(words, list) else str(words) for words in found]
