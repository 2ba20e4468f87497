"""From the annotation file of a labelled data set to the rows of a listing: what the readers of all of them share.

A reader says which videos there are and what they are labelled with; labels are numbered, videos found and subsets
taken here. What is wrong with a file is an error that names the data set, the file, the place in it and the field.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vjepa_lab.data.sources.listing import Table, class_names

_LOOKED_AT = 200
"videos by which it is told how the files of a data set are laid out"


class Entry(NamedTuple):
    """One labelled video or picture."""

    id: str
    "its name in the data set"
    path: str
    "relative to the folder of the data, or absolute"
    label: str | int
    'name of its class or number; "" and -1: none'
    where: str
    "place in the annotation file, for errors"
    start: float = math.nan
    end: float = math.nan
    "seconds of the video that count; NaN: from the beginning, to the end"


def expect_file(kind: str, path: object, what: str, field: str = "path") -> str:
    """The path of a file that is there.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(path, str) or not Path(path).is_file():
        raise ValueError(f"{kind}: {field}: got {path!r}, expected {what}; there is no such file")
    return path


def expect_folder(kind: str, path: object, what: str, field: str = "root") -> str:
    """The path of a folder that is there.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(path, str) or not path or not Path(path).is_dir():
        raise ValueError(f"{kind}: {field}: got {path!r}, expected {what}; there is no such folder")
    return path


def load_json(kind: str, file: str, shape: type, what: str) -> Any:
    """Contents of a JSON file.

    Args:
        shape: list or dict.
        what: says what it holds, for errors.

    Raises:
        ValueError: it is no JSON, or of another shape.
    """
    try:
        with Path(file).open(encoding="utf-8") as text:
            found = json.load(text)
    except ValueError as error:
        raise ValueError(f"{kind}: {file}: got text that is no JSON ({error}), expected {what}") from None
    if not isinstance(found, shape):
        raise ValueError(f"{kind}: {file}: got a JSON {type(found).__name__}, expected {what}")
    return found


def field_of(kind: str, where: str, record: object, name: str, shape: type | tuple[type, ...] = str) -> Any:
    """A field of a JSON object.

    Raises:
        ValueError: the record is no object, or lacks the field, or it is of another type.
    """
    got = record.get(name) if isinstance(record, dict) else record
    if not isinstance(record, dict) or not isinstance(got, shape) or isinstance(got, bool):
        kinds = " or ".join(s.__name__ for s in (shape if isinstance(shape, tuple) else (shape,)))
        raise ValueError(f"{kind}: {where}: {name}: got {got!r}, expected {kinds}")
    return got


def read_csv(
    kind: str, file: str, needed: Sequence[str], *, optional: Sequence[str] = (), delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV file with a header: the place, for errors, and the columns that are asked for.

    Raises:
        ValueError: a needed column is missing, or a row has too few.
    """
    with Path(file).open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        lacking = [name for name in needed if name not in header]
        if lacking:
            got = ", ".join(header) or "no header"
            raise ValueError(f"{kind}: {file}: columns: got {got}, expected also {', '.join(lacking)}")
        places = [(name, header.index(name)) for name in (*needed, *optional) if name in header]
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                expected = f"expected {len(header)} ({delimiter.join(header)})"
                raise ValueError(f"{kind}: {file}:{reader.line_num}: got {len(cells)} fields, {expected}")
            yield f"{file}:{reader.line_num}", {name: cells[at].strip() for name, at in places}


def number_of(kind: str, where: str, name: str, text: str) -> float:
    """A number in a CSV file.

    Raises:
        ValueError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{kind}: {where}: {name}: got '{text}', expected a number") from None


def only_split(kind: str, file: str, split: str, found: Sequence[str]) -> list[int]:
    """Rows whose split is the wanted one; all where ``split`` is "".

    Raises:
        ValueError: there are none.
    """
    rows = [i for i, name in enumerate(found) if split in ("", name)]
    if not rows and found:
        there = ", ".join(sorted(set(found)))
        raise ValueError(f"{kind}: {file}: split: got '{split}', expected one of: {there}")
    return rows


def find_layout(kind: str, root: str, layouts: Sequence[str], videos: Sequence[dict[str, Any]]) -> str:
    """Which of some patterns of file names is that of the data, by the first videos that are there.

    Raises:
        ValueError: none of them is there under any pattern.
    """
    for values in videos[:_LOOKED_AT]:
        for layout in layouts:
            if os.path.exists(os.path.join(root, layout.format(**values))):
                return layout
    tried = ", ".join(layout.format(**videos[0]) for layout in layouts)
    raise ValueError(
        f"{kind}: root: got '{root}', where none of the first {min(len(videos), _LOOKED_AT)} videos lies; "
        f"tried for the first: {tried}"
    )


def to_table(
    kind: str,
    file: str,
    entries: Iterable[Entry],
    *,
    root: str,
    classes: Sequence[str] | str | None = None,
    subset: dict[str, int] | None = None,
    rate: float = 0.0,
) -> Table:
    """The rows of a listing.

    Args:
        kind: name of the source.
        file: the annotation file.
        entries: what is in it.
        root: folder of the paths.
        classes: names in the order of their numbers, or a file with one per line; None or "": the names that occur,
            sorted, where labels are names.
        subset: ``{per_class: n}`` keeps the first n videos of each class, by ascending id.
        rate: see ``Table``.

    Raises:
        ValueError: there are no entries, a label is unknown, or the subset cannot be understood.
    """
    kept = _subset(kind, list(entries), subset or {})
    if not kept:
        raise ValueError(f"{kind}: {file}: got no videos, expected at least one")
    names = class_names(classes) if isinstance(classes, str) and classes else list(classes or []) or None
    if names is None and isinstance(kept[0].label, str):
        names = sorted({str(entry.label) for entry in kept} - {""}) or None
    known = {name: number for number, name in enumerate(names or [])}
    blob, ends, labels = bytearray(), [], []
    for entry in kept:
        blob += os.fsencode(os.path.join(root, entry.path))
        ends.append(len(blob))
        label = entry.label if isinstance(entry.label, int) else -1 if not entry.label else known.get(entry.label)
        if label is None or label < -1 or (names is not None and label >= len(names)):
            expected = f"one of the {len(names)} classes" if names else "an integer of at least 0"
            raise ValueError(f"{kind}: {entry.where}: label: got {entry.label!r}, expected {expected}")
        labels.append(label)
    times = {"start": np.array([e.start for e in kept]), "end": np.array([e.end for e in kept])}
    return Table(
        paths=bytes(blob),
        ends=np.array(ends),
        labels=np.array(labels, dtype=np.int64),
        times={name: values for name, values in times.items() if not np.isnan(values).all()},
        classes=names,
        rate=rate,
    )


def _subset(kind: str, entries: list[Entry], subset: dict[str, int]) -> list[Entry]:
    """The entries to keep, in their order."""
    if not subset:
        return entries
    most = subset.get("per_class")
    if set(subset) != {"per_class"} or not isinstance(most, int) or most < 1:
        raise ValueError(f"{kind}: subset: got {dict(subset)}, expected {{per_class: n}} with n above 0")
    kept: list[int] = []
    taken: dict[str | int, int] = {}
    for place in sorted(range(len(entries)), key=lambda i: _by_number(entries[i].id)):
        label = entries[place].label
        if label in ("", -1):
            continue
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= most:
            kept.append(place)
    return [entries[place] for place in sorted(kept)]


def _by_number(name: str) -> tuple[int, int, str]:
    """Ids that are numbers ascend as such, and come before those that are words."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)
