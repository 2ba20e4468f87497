"""Listings: CSV or JSONL files that name videos and pictures, with labels and times.

Read are: CSV with a header (``path,label,start,end,event``; other columns are ignored), CSV without one (path, label),
delimited by comma, tab, ``::`` or space, which covers the ``path label`` lists of V-JEPA 2 and SlowFast, and JSONL with
the same fields. Labels are integers, or names that are numbered in sorted order.

A listing of millions of rows is held in a few flat arrays (about 100 bytes a row), which pickle at once and which
forked workers share; no Python object per row outlives the reading.

Decisions:
- The delimiter is the one under which the first field of every early line is a file name and the number of fields is
  constant, tried in the order tab, ``::``, comma, space. The space that counts is the last one, so paths may contain
  spaces.
- A listing whose first label is an integer has integer labels; anything else later in it is an error.
- Names are numbered within one source. Give ``classes`` where several listings (training, validation) must agree.
"""

from __future__ import annotations

import csv
import json
import math
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vjepa_lab.batch import Sample
from vjepa_lab.data.clips import ClipSpec, read_clip
from vjepa_lab.data.containers import IMAGES, VIDEOS
from vjepa_lab.data.frames import read_frames
from vjepa_lab.registry import SOURCES

FIELDS: tuple[str, ...] = ("path", "label", "start", "end", "event")
TIMES = ("start", "end", "event")

Rows = Iterator[tuple[int, Sequence[str]]]
"line number, and the text of the fields in use"


@SOURCES.register
@dataclass
class Listing:
    """Videos and pictures named in CSV or JSONL files."""

    path: Any = ""
    "the file, or a list of files"
    weight: float = 1.0
    "share of the mix"
    root: str = ""
    "folder of relative paths; default: the folder of each file"
    columns: dict[str, str] = field(default_factory=dict)
    "names of the columns or JSON fields where they differ from path, label, start, end, event"
    classes: str = ""
    "file with one class name per line: fixes the numbers of named labels"

    def open(self, spec: ClipSpec) -> ListingReader:
        """Read the files.

        Raises:
            ValueError: a file is missing or empty, or a line cannot be understood.
        """
        files = [self.path] if isinstance(self.path, str) else list(self.path)
        if not files or not all(isinstance(f, str) and f for f in files):
            raise ValueError(f"listing: path: got {self.path!r}, expected a CSV or JSONL file or a list of them")
        unknown = sorted(set(self.columns) - set(FIELDS))
        if unknown:
            raise ValueError(f"listing: columns: got {', '.join(unknown)}, expected some of {', '.join(FIELDS)}")
        names = class_names(self.classes) if self.classes else None
        return ListingReader(_read(files, self.root, {f: self.columns.get(f, f) for f in FIELDS}, names), spec, files)


class Table(NamedTuple):
    """The rows of a listing, column by column."""

    paths: bytes
    "all paths, one after another"
    ends: NDArray[np.int64]
    "(n,) where each path ends"
    labels: NDArray[np.int64]
    "(n,) -1: none"
    times: dict[str, NDArray[np.float64]]
    "seconds (n,) by field, NaN: none; only the fields that occur"
    classes: list[str] | None
    "names of the labels, if they have any"
    rate: float = 0.0
    "frames per second of paths that are folders of pictures; 0: there are none"


class ListingReader:
    """Random access to the clips of a listing: index // clips is the row, index % clips the clip of its video."""

    augment = True
    "the loader applies its transform"

    def __init__(self, table: Table, spec: ClipSpec, files: list[str], *, kind: str = "listing") -> None:
        self.name = f"{kind}:{Path(files[0]).name}"
        self.classes = table.classes
        self.table = table
        "the rows, for tools that copy them"
        self._spec = spec

    def __len__(self) -> int:
        return len(self.table.ends) * self._spec.clips

    def path(self, row: int) -> str:
        """The file of a row."""
        start = int(self.table.ends[row - 1]) if row else 0
        return os.fsdecode(self.table.paths[start : int(self.table.ends[row])])

    def key(self, index: int) -> str:
        """Names the clip in reports."""
        row, clip = divmod(index, self._spec.clips)
        return f"{self.path(row)}#{clip}" if self._spec.clips > 1 else self.path(row)

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Clip uint8 (3, F, h, w) at the resolution of the video, its label and event.

        Raises:
            BadSample: the file gives no clip.
        """
        row, number = divmod(index, self._spec.clips)
        key, times = self.key(index), {name: float(values[row]) for name, values in self.table.times.items()}
        segment = bounds(times.get("start", math.nan), times.get("end", math.nan))
        path = self.path(row)
        if self.table.rate and os.path.isdir(path):
            clip = read_frames(path, self._spec, rng, number, key, rate=self.table.rate, segment=segment)
        else:
            clip = read_clip(path, self._spec, rng, number, key, segment=segment)
        return Sample(
            clip=clip.frames.permute(3, 0, 1, 2),
            label=int(self.table.labels[row]),
            event=times.get("event", math.nan) - clip.start,
            key=f"{key} frames {clip.ids[0]}-{clip.ids[-1]}",
        )


def bounds(start: float, end: float) -> tuple[float, float]:
    """Segment of a video from times that may be NaN."""
    return (0.0 if math.isnan(start) else start, math.inf if math.isnan(end) else end)


def class_names(path: str) -> list[str]:
    """Names of a file with one class per line.

    Raises:
        ValueError: the file is missing or empty, or a name is there twice.
    """
    if not Path(path).is_file():
        raise ValueError(f"classes: got '{path}', expected a file with one class name per line; there is none")
    names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names or len(set(names)) < len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise ValueError(f"classes: {path}: " + (f"named twice: {', '.join(twice)}" if twice else "the file is empty"))
    return names


def _read(files: list[str], root: str, columns: dict[str, str], names: list[str] | None) -> Table:
    """Read and join the files. The loop runs once per row, so it holds what a row needs and no more."""
    blob, ends, codes = bytearray(), array("q"), array("q")
    times = {name: array("d") for name in TIMES}
    seen: dict[str, int] = {}  # text of a label -> code in order of appearance
    where: list[tuple[str, int]] = []  # where each code appeared first
    for file in files:
        if not Path(file).is_file():
            raise ValueError(f"listing: path: got '{file}', expected a CSV or JSONL file; there is none")
        folder, before = os.fsencode(os.path.join(root or str(Path(file).parent), "")), len(ends)
        fields, rows = _open(file, columns)
        labelled, timed = fields[1:2] == ["label"], [(i, f) for i, f in enumerate(fields) if f in TIMES]
        for line, row in rows:
            path = row[0].strip()
            if not path:
                raise ValueError(f"{file}:{line}: path: got nothing, expected the path of a video or picture")
            if path[0] != "/":
                blob += folder
            blob += os.fsencode(path)
            ends.append(len(blob))
            label = row[1].strip() if labelled else ""
            code = seen.get(label)
            if code is None:
                code = seen[label] = len(seen)
                where.append((file, line))
            codes.append(code)
            for i, name in timed:
                times[name].append(_seconds(row[i].strip(), file, line, name))
        if len(ends) == before:
            raise ValueError(f"listing: {file}: got no rows, expected at least one video")
        for name in TIMES:
            times[name].extend([math.nan] * (len(ends) - len(times[name])))
    numbers, classes = _number(list(seen), where, names)
    in_use = {name: np.array(values) for name, values in times.items() if not np.isnan(values).all()}
    return Table(bytes(blob), np.array(ends), numbers[np.array(codes)], in_use, classes)


def _number(
    labels: list[str], where: list[tuple[str, int]], names: list[str] | None
) -> tuple[NDArray[np.int64], list[str] | None]:
    """Label numbers of the distinct texts, and their names if they have any."""
    given = [label for label in labels if label]
    if names is None and given and not _is_integer(given[0]):
        names = sorted(given)
    known = {name: number for number, name in enumerate(names or [])}
    numbers = []
    for label, (file, line) in zip(labels, where, strict=True):
        number = -1 if not label else known.get(label, int(label) if _is_integer(label) else None)
        if number is None or number < -1 or (names is not None and number >= len(names)):
            expected = (
                f"one of the {len(names)} classes" if names else "an integer of at least 0, as in the lines before"
            )
            raise ValueError(f"{file}:{line}: label: got '{label}', expected {expected}")
        numbers.append(number)
    return np.array(numbers, dtype=np.int64), names


def _is_integer(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _seconds(text: str, file: str, line: int, name: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise ValueError(f"{file}:{line}: {name}: got '{text}', expected seconds") from None


# ---- lines ----------------------------------------------------------------------------------------------------------


def _open(file: str, columns: dict[str, str]) -> tuple[list[str], Rows]:
    """The fields that a file has (path, then label, then times) and its rows, blank lines skipped."""
    with Path(file).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        early = [line.rstrip("\r\n") for line in islice(lines, 100) if line.strip()]
    if not early:
        return ["path"], iter(())
    if early[0].lstrip().startswith("{"):
        return list(FIELDS), _json_rows(file, columns)
    split, header = _dialect(early, file, columns)
    if header:
        fields = [field for field in FIELDS if columns[field] in header]
        places = [header.index(columns[field]) for field in fields]
    else:
        fields = list(FIELDS[: min(2, len(next(split(iter(early)))[1]))])
        places = list(range(len(fields)))
    return fields, _csv_rows(file, split, header, places)


def _csv_rows(file: str, split: Split, header: list[str], places: list[int]) -> Rows:
    pick = itemgetter(*places) if len(places) > 1 else lambda cells: (cells[places[0]],)
    expected, ahead = len(header), bool(header)
    with Path(file).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        for line, cells in split(lines):
            if not cells:
                continue
            if ahead:
                ahead = False
                continue
            expected = expected or len(cells)
            if len(cells) != expected:
                fields = f" ({','.join(header)})" if header else ""
                raise ValueError(f"{file}:{line}: got {len(cells)} fields, expected {expected}{fields}")
            yield line, pick(cells)


def _json_rows(file: str, columns: dict[str, str]) -> Rows:
    names = [columns[field] for field in FIELDS]
    with Path(file).open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}:{number}: got a line that is no JSON ({error.msg}), expected JSON") from None
            if not isinstance(entry, dict) or not isinstance(entry.get(names[0]), str):
                raise ValueError(f"{file}:{number}: got {line.strip()[:80]}, expected an object with '{names[0]}'")
            yield number, ["" if entry.get(name) is None else str(entry[name]) for name in names]


Split = Callable[[Iterator[str]], Iterator[tuple[int, list[str]]]]
"lines -> (line number, cells), no cells for a blank line"


def _quoted(delimiter: str) -> Split:
    def split(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(lines, delimiter=delimiter)
        try:
            for cells in reader:
                yield reader.line_num, cells
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num} is no CSV: {error}; is a quotation mark left open?") from None

    return split


def _plain(cut: Callable[[str], list[str]]) -> Split:
    def split(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            yield number, cut(line) if line else []

    return split


SPLITS: tuple[Split, ...] = (
    _quoted("\t"),
    _plain(lambda line: line.split("::")),
    _quoted(","),
    _plain(lambda line: line.rsplit(None, 1)),
    _plain(str.split),
    _plain(lambda line: [line]),
)


def _dialect(early: list[str], file: str, columns: dict[str, str]) -> tuple[Split, list[str]]:
    """How to split the lines, and the header ([] if there is none)."""
    for split in SPLITS:
        header = [cell.strip() for cell in next(split(iter(early)))[1]]
        if columns["path"] in header and len(header) == len(set(header)):
            return split, header
    for trusted in (_is_media, lambda cells: len(cells) == 2 and _is_integer(cells[1])):
        for split in SPLITS:
            rows = [cells for _, cells in split(iter(early))]
            if len({len(cells) for cells in rows}) == 1 and all(trusted(cells) for cells in rows):
                return split, []
    raise ValueError(
        f"{file}:1: got '{early[0][:80]}', expected a header with the column '{columns['path']}', or lines of a path "
        f"and a label; another name of the column is given by columns: {{path: name}}"
    )


def _is_media(cells: list[str]) -> bool:
    return cells[0].strip().lower().rpartition(".")[2] in VIDEOS + IMAGES
