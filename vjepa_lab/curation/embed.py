"""The verb ``embed``: features of every video of a listing, into a folder of shards (``store.py``).

Decisions.
- Which clips share a batch depends on the listing alone, never on where the last run stopped or on broken videos, whose
  places stay empty. Features therefore do not depend on either, down to the last bit.
- One loader runs through all shards that are still missing, so that the device does not wait between them.
- The encoder is recorded by a hash of its weights and the listing by a hash of its file: names and folders may change
  between two starts, contents may not.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vjepa_lab import __version__
from vjepa_lab.config import EmbedConfig
from vjepa_lab.curation.reading import Batch, Plan, Read, count_all, read_clips
from vjepa_lab.curation.store import Bad, Store, Summary
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources.listing import Listing, ListingReader
from vjepa_lab.features import FrozenEncoder, device_of
from vjepa_lab.tokens import pooled, window_starts

log = logging.getLogger("vjepa_lab")

_NOT_RECORDED = ("videos", "checkpoint", "out", "workers", "threads", "timeout", "device", "part", "parts", "progress")
"fields of which the features are no function, and those that are recorded by content"


def main(config: EmbedConfig) -> int:
    """Write the features that are not there yet; returns the exit code.

    Raises:
        ValueError, OSError: what was asked cannot be done; the message says which field or file.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores, told at every start
    encoder = _open_encoder(config)
    spec = ClipSpec(
        frames=encoder.frames,
        height=encoder.crop,
        width=encoder.crop,
        fps=config.fps,
        stride=config.stride,
        clips=config.clips,
        random=False,
        decoder=config.decoder,
        threads=config.threads,
        timeout=config.timeout,
        min_frames=config.min_frames,
    )
    reader = Listing(path=config.videos).open(spec)
    videos = len(reader.table.ends)
    shards = -(-videos // config.shard)
    store = Store(
        Path(config.out),
        shards=shards,
        suffix=config.format,
        record=_record(config, encoder, videos),
        note={
            "checkpoint": config.checkpoint,
            "videos": config.videos,
            "classes": reader.classes,
            "vjepa_lab": __version__,
        },
    )
    missing = [s for s in range(config.part, shards, config.parts) if not store.done(s)]
    log.info(
        "embed: %d videos in %d shards, %d to write; %s, %d frames of %d px, width %d, on %s",
        *(videos, shards, len(missing), config.checkpoint),
        *(encoder.frames, encoder.crop, encoder.width, encoder.device),
    )
    clips, seconds = _write_shards(config, encoder, reader, spec, store, missing)
    summary = store.finish(source=reader.name, path_of=reader.path)
    rate = f"{clips} clips read now, {clips / seconds:.1f} a second" if clips else "nothing was left to read"
    if summary is None:
        left = sum(not store.done(s) for s in range(shards))
        log.info("%s: part %d is done (%s); %d shards of other parts are not", store.folder, config.part, rate, left)
        return 0
    log.info(_in_words(summary, videos, store, rate))
    if not summary.rows:
        raise ValueError(f"{config.videos}: none of its {videos} videos could be read")
    return 0


def _open_encoder(config: EmbedConfig) -> FrozenEncoder:
    """The encoder of a configuration, on its device.

    Raises:
        ValueError: it cannot be opened, has no such layers, or does not take clips of this size.
    """
    which: Any = config.encoder  # checked
    encoder = FrozenEncoder.of(
        config.checkpoint,
        encoder=which,
        frames=config.frames,
        crop=config.crop,
        dtype=torch.bfloat16 if config.precision == "bf16-mixed" else torch.float32,
        device=device_of(config.device),
        **config.load,
    )
    wrong = [i for i in config.layers if not 0 <= i < encoder.depth]
    if wrong:
        raise ValueError(f"layers: expected blocks in 0..{encoder.depth - 1}, got {wrong}")
    blank = torch.zeros(1, 3, encoder.frames, encoder.crop, encoder.crop, dtype=torch.uint8)
    encoder.tokens(blank)  # clips of a size that it cannot take are told before the folder is made
    return encoder


def _write_shards(
    config: EmbedConfig,
    encoder: FrozenEncoder,
    reader: ListingReader,
    spec: ClipSpec,
    store: Store,
    shards: Sequence[int],
) -> tuple[int, float]:
    """Write these shards; how many clips were read for them, and in how many seconds."""
    if not shards:
        return 0, 0.0
    videos = len(reader.table.ends)
    rows = {s: range(s * config.shard, min((s + 1) * config.shard, videos)) for s in shards}
    windows = _windows(config, reader, spec, [row for at in rows.values() for row in at]) if config.windows else None
    plan = Plan(rows, windows, clips=spec.clips, batch=config.batch)
    reads = read_clips(
        reader,
        spec,
        plan,
        views=config.views,
        workers=config.workers,
        pin_memory=encoder.device.type == "cuda",
    )
    columns: dict[str, list[Tensor]] = {}
    bad: list[Bad] = []
    clips, begun = 0, time.perf_counter()
    with tqdm(total=plan.total(), desc="embed", unit="clip", disable=not config.progress) as bar:
        for batch, read in zip(plan.batches(), reads, strict=True):
            if read.failure is not None:
                raise ValueError(read.failure)
            good = [i for i, b in enumerate(read.bad) if b is None]
            found = {name: x[good] for name, x in _features(config, encoder, read.clips).items()}  # (G, V, ...)
            for name, x in (found | _keys(batch, read, reader, good)).items():
                columns.setdefault(name, []).append(x.flatten(0, 1))
            bad += [b for b in read.bad if b is not None]
            clips += len(good)
            bar.update(len(batch.items))
            if batch.last:
                store.write(batch.shard, {name: torch.cat(parts) for name, parts in columns.items()}, bad)
                columns, bad = {}, []
    return clips, time.perf_counter() - begun


def _features(config: EmbedConfig, encoder: FrozenEncoder, clips: Tensor) -> dict[str, Tensor]:
    """Features of a batch of views (B, V, 3, F, H, W) by name: (B, V, ...), pooled, in the type that is written."""
    flat, dtype = clips.flatten(0, 1), getattr(torch, config.dtype)
    if config.layers:
        found = {f"layer.{i}": x for i, x in encoder.taps(flat, config.layers).items()}
    else:
        found = {"features": encoder.tokens(flat)}
    pool: Any = config.pool  # checked
    return {name: pooled(x, pool).to(dtype).cpu().unflatten(0, clips.shape[:2]) for name, x in found.items()}


def _keys(batch: Batch, read: Read, reader: ListingReader, good: list[int]) -> dict[str, Tensor]:
    """The columns that say what the rows of a batch are, (G, V)."""
    items, views = [batch.items[i] for i in good], read.clips.shape[1]
    columns = {
        "video": torch.tensor([item.video for item in items], dtype=torch.int64),
        "clip": torch.tensor([item.clip for item in items], dtype=torch.int64),
        "start": torch.tensor([read.starts[i] for i in good], dtype=torch.float64),
        "label": torch.tensor([int(reader.table.labels[item.video]) for item in items], dtype=torch.int64),
    }
    columns = {name: x[:, None].expand(-1, views) for name, x in columns.items()}
    return {**columns, "view": torch.arange(views).expand(len(items), -1)}


def _windows(
    config: EmbedConfig, reader: ListingReader, spec: ClipSpec, rows: list[int]
) -> dict[int, tuple[int, ...] | Bad]:
    """Where the windows of each video begin, or why it has none."""
    counts = count_all(reader, spec, rows, workers=config.workers)
    last: Any = config.last  # checked
    found: dict[int, tuple[int, ...] | Bad] = {}
    bar = tqdm(counts, "lengths", len(rows), unit="video", disable=not config.progress)
    for row, count in zip(rows, bar, strict=True):
        if isinstance(count, Bad):
            found[row] = count
        else:
            found[row] = window_starts(count, spec.frames, config.hop or spec.frames, last)
    return found


def _record(config: EmbedConfig, encoder: FrozenEncoder, videos: int) -> dict[str, Any]:
    """What the features are of."""
    settings = {name: value for name, value in asdict(config).items() if name not in _NOT_RECORDED}
    listing = {"videos": videos, "sha256": hashlib.sha256(Path(config.videos).read_bytes()).hexdigest()}
    return {
        "settings": settings | {"frames": encoder.frames, "crop": encoder.crop},
        "listing": listing,
        "encoder": {"width": encoder.width, "depth": encoder.depth, "sha256": encoder.fingerprint()},
    }


def _in_words(summary: Summary, videos: int, store: Store, rate: str) -> str:
    lines = [
        f"{store.folder}: {summary.rows} rows of {summary.videos} of {videos} videos in {store.shards} shards ({rate})",
        f"  index: {store.folder / 'index.csv'}",
    ]
    if summary.skipped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.skipped.items()))
        lines.append(f"  skipped: {reasons}; each file and its reason: {store.folder / 'bad_samples.jsonl'}")
    return "\n".join(lines)
