# /// script
# dependencies = ["vjepa_lab", "tqdm"]
# ///
"""Write the videos and pictures of a listing (CSV or JSONL) into webdataset tars.

    python tools/videos_to_shards.py train.csv shards/ --megabytes 500

Files are copied as they are. Each sample gets its label as ``cls`` and its times as ``json``; class names go to
``<prefix>-classes.txt`` beside them. The order is shuffled: a listing sorted by class would give tars of one class.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm
from webdataset.writer import ShardWriter

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.containers import IMAGES, VIDEOS
from vjepa_lab.data.sources.listing import Listing, ListingReader


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 if nothing was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("listing", help="CSV or JSONL with the columns path, label, start, end, event")
    parser.add_argument("folder", type=Path, help="where the tars go")
    parser.add_argument("--root", default="", help="folder of relative paths (default: that of the listing)")
    parser.add_argument("--classes", default="", help="file with one class name per line, to fix the label numbers")
    parser.add_argument("--prefix", default="shard", help="names are <prefix>-000000.tar, ... (default: shard)")
    parser.add_argument("--megabytes", type=float, default=500, help="size at which a tar is closed (default: 500)")
    parser.add_argument("--samples", type=int, default=100_000, help="most samples per tar (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--keep-order", action="store_true", help="write in the order of the listing")
    args = parser.parse_args(argv)

    try:
        reader = Listing(path=args.listing, root=args.root, classes=args.classes).open(
            ClipSpec(frames=1, height=1, width=1, fps=None, stride=1)
        )
    except ValueError as error:
        parser.error(str(error))
    args.folder.mkdir(parents=True, exist_ok=True)
    there = sorted(args.folder.glob(f"{args.prefix}-*.tar"))
    if there:
        parser.error(f"folder: {there[0]} is already there; give another folder or --prefix")

    rows = np.arange(len(reader))
    if not args.keep_order:
        np.random.default_rng(args.seed).shuffle(rows)
    skipped: Counter[str] = Counter()
    written = size = 0
    pattern = str(args.folder / f"{args.prefix}-%06d.tar").replace("\\", "/")
    with ShardWriter(pattern, maxcount=args.samples, maxsize=args.megabytes * 1e6, verbose=0) as writer:
        for row in tqdm(rows.tolist(), unit="file", disable=not sys.stderr.isatty()):
            path = Path(reader.path(row))
            extension = path.suffix.lower().lstrip(".")
            if extension not in VIDEOS + IMAGES:
                skipped["not a video or picture"] += 1
                continue
            try:
                data = path.read_bytes()
            except OSError:
                skipped["missing or unreadable"] += 1
                continue
            if not data:
                skipped["empty"] += 1
                continue
            writer.write(_sample(reader, row, extension, data))
            written, size = written + 1, size + len(data)
        tars = writer.shard
    if reader.classes:
        (args.folder / f"{args.prefix}-classes.txt").write_text("\n".join(reader.classes) + "\n", encoding="utf-8")
    print(f"{written} of {len(reader)} samples, {size / 1e6:.1f} MB, in {tars} tars in {args.folder}")
    for reason, count in sorted(skipped.items()):
        print(f"skipped {count}: {reason}")
    return 0 if written else 1


def _sample(reader: ListingReader, row: int, extension: str, data: bytes) -> dict[str, object]:
    table = reader.table
    # the name makes reports about a sample readable; a dot in it would end the key
    name = re.sub(r"[^\w-]+", "_", Path(reader.path(row)).stem)[:60]
    sample: dict[str, object] = {"__key__": f"{row:09d}-{name}", extension: data}
    if table.labels[row] >= 0:
        sample["cls"] = int(table.labels[row])
    times = {name: float(values[row]) for name, values in table.times.items()}
    times = {name: value for name, value in times.items() if not math.isnan(value)}
    if times:
        sample["json"] = times
    return sample


if __name__ == "__main__":
    sys.exit(main())
