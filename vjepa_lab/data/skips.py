"""What could not be read: counted per source and reason, and written down once per file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vjepa_lab import dist


class Skip(NamedTuple):
    """One sample that was passed over."""

    source: str
    key: str
    reason: str
    detail: str


class Skips:
    """Counts of this rank, and the file ``bad_samples.jsonl`` (one line per bad sample; ranks above 0 write
    ``bad_samples.rank<r>.jsonl``). A resumed run adds to the file and does not repeat its lines."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.counts: Counter[tuple[str, str]] = Counter()
        self._known: set[tuple[str, str]] | None = None

    @property
    def path(self) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / ("bad_samples.jsonl" if dist.rank() == 0 else f"bad_samples.rank{dist.rank()}.jsonl")

    def add(self, skipped: Sequence[Skip]) -> None:
        """Count skips, and append those of files not seen before."""
        if not skipped:
            return
        known = self._read_known()
        fresh = []
        for skip in skipped:
            self.counts[skip.source, skip.reason] += 1
            if (skip.source, skip.key) not in known:
                known.add((skip.source, skip.key))
                fresh.append(json.dumps(skip._asdict(), ensure_ascii=False))
        if fresh and self.path is not None:
            with self.path.open("a+b") as file:
                file.seek(max(file.tell() - 1, 0))
                end_a_cut_line = b"" if file.read(1) in (b"", b"\n") else b"\n"
                file.write(end_a_cut_line + ("\n".join(fresh) + "\n").encode())

    def by_reason(self) -> dict[str, int]:
        """Skips so far on this rank, per reason."""
        total: Counter[str] = Counter()
        for (_, reason), n in self.counts.items():
            total[reason] += n
        return dict(total)

    def report(self) -> str:
        """Sentences for the end of a run."""
        if not self.counts:
            return "no bad samples"
        sources: dict[str, list[str]] = {}
        for (source, reason), n in sorted(self.counts.items()):
            sources.setdefault(source, []).append(f"{reason} {n}")
        files = len(self._read_known())
        lines = [f"bad samples skipped: {sum(self.counts.values())} draws of {files} files"]
        lines += [f"  {source}: {', '.join(reasons)}" for source, reasons in sources.items()]
        if self.path is not None:
            lines.append(f"  each file and its reason: {self.path}")
        return "\n".join(lines)

    def _read_known(self) -> set[tuple[str, str]]:
        if self._known is None:
            self._known = set()
            if self.path is not None and self.path.is_file():
                for line in self.path.read_text(encoding="utf-8").splitlines():
                    try:
                        row = json.loads(line)
                    except json.JSONDecodeError:
                        continue  # a line cut by a kill; its file is written again
                    self._known.add((row["source"], row["key"]))
        return self._known
