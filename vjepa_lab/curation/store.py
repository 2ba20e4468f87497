"""The folder of features that ``embed`` writes.

- ``embed.json``: of what these are the features (settings, listing, encoder). Whoever adds to the folder must agree.
- ``shard-00000.safetensors`` (or ``.parquet``): the features of rows [i * n, (i + 1) * n) of the listing. One row per
  clip and view; beside the features the columns video (row of the listing), clip, view, start (seconds) and label.
- ``index.csv``: path, clip, view, start, label, shard, row. ``bad_samples.jsonl``: what could not be read, and why.

Decisions. A shard is written aside and renamed, and holds its bad samples in its own header: it is there with all that
belongs to it, or not at all. The last two files are made from the shards when all are there. Nothing in a file depends
on when or how often the writing was interrupted, so that files of equal runs are equal byte by byte (which is why a
safetensors header holds one entry: it does not keep the order of several).
"""

from __future__ import annotations

import csv
import fcntl
import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

KEYS = ("video", "clip", "view", "start", "label")
"columns of every shard that are no features"
INDEX = ("path", "clip", "view", "start", "label", "shard", "row")


class Bad(NamedTuple):
    """A clip that could not be read."""

    video: int
    "row of the listing"
    clip: int
    reason: str
    detail: str


class Shard(NamedTuple):
    """What a shard file holds."""

    columns: dict[str, Tensor]
    "features (R, ...) by name, and the columns ``KEYS`` (R,)"
    bad: list[Bad]


class Summary(NamedTuple):
    """What all shards of a folder hold."""

    videos: int
    "with at least one clip"
    rows: int
    "clips times views"
    skipped: Counter[str]
    "videos with a clip that could not be read, by reason"


class Store:
    """The folder, opened for writing.

    Args:
        folder: made if it is not there.
        shards: how many there will be.
        suffix: safetensors | parquet.
        record: what the features are of; compared with that of the folder.
        note: kept beside the record and not compared.

    Raises:
        ValueError: the folder holds features of something else; the message lists the differences.
    """

    def __init__(
        self, folder: Path, *, shards: int, suffix: str, record: Mapping[str, Any], note: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        self.shards = shards
        self.suffix = suffix
        path = folder / "embed.json"
        if path.is_file():
            there = _flat(json.loads(path.read_text(encoding="utf-8"))["record"])
            here = _flat(json.loads(json.dumps(record)))
            differ = [k for k in sorted(there.keys() | here.keys()) if there.get(k) != here.get(k)]
            if differ:
                lines = [f"{k}: there {there.get(k)}, asked for {here.get(k)}" for k in differ]
                raise ValueError(
                    "\n  ".join([f"{folder}: holds features of something else:", *lines])
                    + "\ngive another out, or delete the folder"
                )
            return
        if any(folder.glob("shard-*")):
            raise ValueError(f"{folder}: holds shards but no embed.json that says of what; give another out")
        folder.mkdir(parents=True, exist_ok=True)
        _write_text(path, json.dumps({"record": record, "note": note}, indent=1) + "\n", aside=f".{os.getpid()}.part")

    def path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.{self.suffix}"

    def done(self, shard: int) -> bool:
        """Whether a shard is there, and so is whole."""
        return self.path(shard).is_file()

    def write(self, shard: int, columns: Mapping[str, Tensor], bad: Sequence[Bad]) -> None:
        """Write a shard: features (R, ...) and the columns ``KEYS`` (R,)."""
        path = self.path(shard)
        aside = path.with_name(path.name + ".part")
        if self.suffix == "parquet":
            _write_parquet(aside, columns, bad)
        else:
            tensors = {name: x.contiguous() for name, x in columns.items()}
            # not save_file, whose own file aside would stay behind when it is killed
            aside.write_bytes(save(tensors, metadata={"vjepa_lab": json.dumps({"bad": bad})}))
        _settle(aside, path)

    def finish(self, *, source: str, path_of: Callable[[int], str]) -> Summary | None:
        """Make ``index.csv`` and ``bad_samples.jsonl`` from the shards; None while some are missing.

        Args:
            source: name of the listing, for the reports.
            path_of: path of a row of the listing.

        Raises:
            ValueError: a shard is damaged.
        """
        if not all(self.done(shard) for shard in range(self.shards)):
            return None
        with (self.folder / "embed.json").open("rb") as record:
            fcntl.flock(record, fcntl.LOCK_EX)  # several parts may end at the same time
            return self._finish(source, path_of)

    def _finish(self, source: str, path_of: Callable[[int], str]) -> Summary:
        count, videos, skipped = 0, 0, Counter()
        index, report = self.folder / "index.csv.part", self.folder / "bad_samples.jsonl.part"
        with index.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text, report.open("w") as lines:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(INDEX)
            for shard in range(self.shards):
                columns, bad = read_shard(self.path(shard), KEYS)
                video, *others = (columns[key].tolist() for key in KEYS)
                for row, (at, clip, view, start, label) in enumerate(zip(video, *others, strict=True)):
                    table.writerow((path_of(at), clip, view, round(start, 6), label, shard, row))
                count, videos = count + len(video), videos + len(set(video))
                lost = Counter((b.video, b.reason, b.detail) for b in bad)
                for (at, reason, detail), clips in lost.items():
                    entry = {"source": source, "key": path_of(at), "reason": reason, "detail": detail, "clips": clips}
                    lines.write(json.dumps(entry) + "\n")
                skipped.update(reason for _, reason in {(at, reason) for at, reason, _ in lost})
        _settle(index, self.folder / "index.csv")
        _settle(report, self.folder / "bad_samples.jsonl")
        for left in self.folder.glob("*.part"):  # of a process that was killed
            left.unlink(missing_ok=True)
        return Summary(videos, count, skipped)


def read_shard(path: Path, names: Sequence[str] | None = None) -> Shard:
    """Read a shard, or the columns ``names`` of it.

    Raises:
        ValueError: the file is damaged, or no shard.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path, names)
    try:
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            about = json.loads(file.metadata()["vjepa_lab"])
            columns = {name: file.get_tensor(name) for name in (names or file.keys())}
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read as a shard of features: {error}; delete it to make it anew") from None
    return Shard(columns, [Bad(*b) for b in about["bad"]])


def _write_parquet(path: Path, columns: Mapping[str, Tensor], bad: Sequence[Bad]) -> None:
    pa, parquet = _arrow()
    arrays: dict[str, Any] = {}
    for name, x in columns.items():
        flat = pa.array(x.reshape(-1).numpy())
        arrays[name] = flat if x.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, int(np.prod(x.shape[1:])))
    about = {"bad": bad, "shapes": {name: list(x.shape[1:]) for name, x in columns.items()}}
    table = pa.table(arrays).replace_schema_metadata({"vjepa_lab": json.dumps(about)})
    parquet.write_table(table, path, compression="zstd")


def _read_parquet(path: Path, names: Sequence[str] | None) -> Shard:
    pa, parquet = _arrow()
    try:
        about = json.loads(parquet.read_schema(path).metadata[b"vjepa_lab"])
        table = parquet.read_table(path, columns=None if names is None else list(names))
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read as a shard of features: {error}; delete it to make it anew") from None
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        flat = column.flatten() if about["shapes"][name] else column
        columns[name] = torch.from_numpy(flat.to_numpy(zero_copy_only=False).copy()).reshape(
            table.num_rows, *about["shapes"][name]
        )
    return Shard(columns, [Bad(*b) for b in about["bad"]])


def _arrow() -> tuple[ModuleType, ModuleType]:
    """The optional package pyarrow, and its part for Parquet."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise ValueError("parquet: pyarrow is not installed: pip install pyarrow") from None


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _write_text(path: Path, text: str, *, aside: str) -> None:
    part = path.with_name(path.name + aside)
    part.write_text(text, encoding="utf-8")
    _settle(part, path)


def _settle(aside: Path, path: Path) -> None:
    """Make a finished file appear under its name, its bytes on the disk first."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)
