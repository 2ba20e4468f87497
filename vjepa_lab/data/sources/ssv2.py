"""Something-Something v2: JSON files of templates, and one WebM per video.

    labels.json        {"Pushing something from left to right": "93", ...}, 174 of them
    train.json         [{"id": "78687", "label": "pushing a cup ...", "template": "Pushing [something] from ..."}, ...]
    <id>.webm

The class of a video is that of its template without the brackets. A test file has ids alone: no labels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources._annotated import Entry, expect_file, expect_folder, field_of, load_json, to_table
from vjepa_lab.data.sources.listing import ListingReader
from vjepa_lab.registry import SOURCES

_LABELS = ("labels.json", "something-something-v2-labels.json")


@SOURCES.register
@dataclass
class Ssv2:
    """Something-Something v2 as its JSON files describe it."""

    path: str = ""
    "train.json, validation.json or test.json, by whatever name"
    root: str = ""
    "folder of the WebM files"
    weight: float = 1.0
    "share of the mix"
    labels: str = ""
    "labels.json; default: the one beside path"
    subset: dict[str, int] = field(default_factory=dict)
    "{per_class: 104} keeps the first videos of each class, by ascending id: about 18,000 of the training set"

    def open(self, spec: ClipSpec) -> ListingReader:
        """Read the JSON files.

        Raises:
            ValueError: a file or the folder is not there, or a record cannot be understood.
        """
        file = expect_file("ssv2", self.path, "a JSON list of {id, template}")
        root = expect_folder("ssv2", self.root, "the folder of the .webm files")
        records = load_json("ssv2", file, list, "a list of {id, template}")
        entries: list[Entry] = []
        classes: list[str] | None = None
        if any(isinstance(record, dict) and "template" in record for record in records):
            classes = self._classes(file)
        known = set(classes or [])
        for number, record in enumerate(records):
            where = f"{file}: record {number}"
            name = str(field_of("ssv2", where, record, "id", (str, int)))
            label = ""
            if classes is not None:
                template = field_of("ssv2", where, record, "template")
                label = template.replace("[", "").replace("]", "")
                if label not in known:
                    raise ValueError(f"ssv2: {where}: template: got '{template}', which is not among the labels")
            entries.append(Entry(name, f"{name}.webm", label, where))
        table = to_table("ssv2", file, entries, root=root, classes=classes, subset=self.subset)
        return ListingReader(table, spec, [file], kind="ssv2")

    def _classes(self, file: str) -> list[str]:
        """Names of the classes in the order of their numbers."""
        folder = os.path.dirname(file)
        beside = next((p for name in _LABELS if Path(p := os.path.join(folder, name)).is_file()), "")
        labels = expect_file("ssv2", self.labels or beside or os.path.join(folder, _LABELS[0]), "labels.json", "labels")
        numbers = load_json("ssv2", labels, dict, "an object of class names and numbers")
        by_number: dict[int, str] = {}
        for name, number in numbers.items():
            if not str(number).isdecimal():
                raise ValueError(f"ssv2: {labels}: '{name}': got {number!r}, expected a number")
            by_number[int(number)] = name
        if sorted(by_number) != list(range(len(numbers))):
            raise ValueError(f"ssv2: {labels}: expected the numbers 0 to {len(numbers) - 1}, each once")
        return [by_number[number] for number in range(len(numbers))]
