"""The verb ``probe``: probes of a checkpoint, beside their controls and baselines, as records and a page.

Each metric is one record (a line of results.jsonl): its value and interval, how many videos or episodes it rests on,
the hash of the weights and of each split, every field of the probe, and the same figure of the controls and the
baselines.
"""

from __future__ import annotations

import csv
import datetime
import json
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vjepa_lab import __version__
from vjepa_lab.config_probe import ProbeConfig
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder, device_of
from vjepa_lab.probes import Compared, Compares, Refuses, Shows
from vjepa_lab.probes._controls import control
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.registry import PROBES
from vjepa_lab.report import Section, films, pca_film, probe_page
from vjepa_lab.report.text import aligned

log = logging.getLogger("vjepa_lab")

_CLIPS_SHOWN = 3
_COLUMNS = ("probe", "metric", "value", "low", "high", "sd", "units")


def main(config: ProbeConfig) -> int:
    """Measure, write and say what was found; returns the exit code.

    Raises:
        ValueError, OSError: what was asked cannot be done; the message says which field or file.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    out = Path(config.out)
    encoder = _open(config, config.checkpoint, config.load, config.encoder)
    look = Look(
        frames=encoder.frames,
        crop=encoder.crop,
        fps=config.fps,
        stride=config.stride,
        decoder=config.decoder,
        threads=config.threads,
        timeout=config.timeout,
        min_frames=config.min_frames,
        workers=config.workers,
    )
    log.info(
        "probe: %s, %d frames of %d px, width %d, on %s",
        config.checkpoint,
        encoder.frames,
        encoder.crop,
        encoder.width,
        encoder.device,
    )
    records: list[dict[str, Any]] = []
    bad: dict[str, dict[str, str]] = {}
    pictures: list[Section] = []
    encoders = {"": encoder} | {name: control(name, encoder, seed=config.seed) for name in config.controls}
    encoders |= {name: _open(config, given, {}, "auto") for name, given in config.baselines.items()}
    probes = [PROBES.build(entry) for entry in config.probes]
    _ask(probes, config, encoder)
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(config.probes) * len(encoders), unit="measurement", disable=not config.progress) as bar:
        for entry, probe in zip(config.probes, probes, strict=True):
            found: dict[str, dict[str, Estimate]] = {}
            notes: dict[str, Any] = {}
            streams: dict[str, Stream] = {}
            for name, network in encoders.items():
                bar.set_description(f"{entry['name']} {name or 'encoder'}")
                refused = _refusal(probe, network)
                if refused is not None:
                    log.info("%s: %s is left out: %s", entry["name"], name, refused)
                    bar.update()
                    continue
                read = _streams(config, probe, look, network, shuffled=name == "shuffled")
                found[name] = dict(probe.run(network, read))
                notes[name] = _note(probe)
                if not name and config.report is not None:
                    pictures += _own_sections(probe)
                bad |= {b.key: b._asdict() for stream in read.values() for b in stream.skipped}
                streams = streams or read
                bar.update()
            beside = _compared(probe, notes)
            pictures += beside.sections if config.report is not None else []
            found = {name: {**own, **beside.metrics.get(name, {})} for name, own in found.items()}
            records += _records(config, entry["name"], probe, encoder, streams, found)
            if entry is config.probes[0] and config.report is not None:
                pictures.append(Section("Features", films(pca_film(encoder, _shown(streams, _CLIPS_SHOWN)))))
    _write(out, records, list(bad.values()))
    log.info(_in_words(records, out, len(bad)))
    if config.report is not None:
        page = probe_page(
            records,
            checkpoint=config.checkpoint,
            date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            version=__version__,
            extras=pictures,
        )
        Path(config.report).parent.mkdir(parents=True, exist_ok=True)
        Path(config.report).write_text(page, encoding="utf-8")
        log.info("report: %s", config.report)
    return 0


def _open(config: ProbeConfig, checkpoint: str, load: dict[str, Any], which: str) -> FrozenEncoder:
    chosen: Any = which  # checked
    return FrozenEncoder.of(
        checkpoint,
        encoder=chosen,
        frames=config.frames,
        crop=config.crop,
        dtype=torch.bfloat16 if config.precision == "bf16-mixed" else torch.float32,
        device=device_of(config.device),
        **load,
    )


def _streams(
    config: ProbeConfig, probe: Any, look: Look, encoder: FrozenEncoder, *, shuffled: bool
) -> dict[str, Stream]:
    """Each split that the probe asks for. All encoders see the same clips, in length and size those of the first."""
    streams = {}
    for split, demand in probe.demands().items():
        stream = Stream(demand, look, batch=probe.batch, device=encoder.device, shuffled=shuffled, seed=config.seed)
        stream.cache = str(Path(config.out) / "features") if config.keep_features else None
        streams[split] = stream
    return streams


def _records(
    config: ProbeConfig,
    name: str,
    probe: Any,
    encoder: FrozenEncoder,
    streams: dict[str, Stream],
    found: dict[str, dict[str, Estimate]],
) -> Iterator[dict[str, Any]]:
    """One record per metric of the encoder."""
    shared = {
        "unit": "/".join(dict.fromkeys(s.units_of for s in streams.values())),
        "split": {
            split: {"hash": s.digest(), "videos": len(s), "skipped": len(s.skipped)} for split, s in streams.items()
        },
        "weights": encoder.fingerprint(),
        "checkpoint": config.checkpoint,
        "choices": asdict(probe)
        | {"frames": encoder.frames, "crop": encoder.crop, "fps": config.fps, "stride": config.stride}
        | {"precision": config.precision, "encoder": config.encoder},
        "vjepa_lab": __version__,
    }
    for metric, estimate in found[""].items():
        others = {other: _plain(v[metric]) for other, v in found.items() if other and metric in v}
        yield {
            "probe": name,
            "metric": metric,
            **_plain(estimate),
            "seeds": [config.seed] if math.isnan(estimate.sd) else list(range(probe.seeds)),
            "controls": {name: others[name] for name in config.controls if name in others},
            "baselines": {name: others[name] for name in config.baselines if name in others},
            **shared,
        }


def _plain(estimate: Estimate) -> dict[str, Any]:
    """An estimate for JSON, which has no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in estimate._asdict().items()}


def _ask(probes: list[Any], config: ProbeConfig, encoder: FrozenEncoder) -> None:
    """Raises:
    ValueError: a probe cannot measure the encoder that it is all about.
    """
    for entry, probe in zip(config.probes, probes, strict=True):
        refused = _refusal(probe, encoder)
        if refused is not None:
            raise ValueError(f"probe {entry['name']}: {config.checkpoint}: {refused}")


def _refusal(probe: Any, encoder: FrozenEncoder) -> str | None:
    return probe.refusal(encoder) if isinstance(probe, Refuses) else None


def _note(probe: Any) -> Any:
    return probe.note() if isinstance(probe, Compares) else None


def _compared(probe: Any, notes: dict[str, Any]) -> Compared:
    return probe.compare(notes) if isinstance(probe, Compares) else Compared({}, [])


def _own_sections(probe: Any) -> list[Section]:
    return probe.sections() if isinstance(probe, Shows) else []


def _shown(streams: dict[str, Stream], count: int) -> torch.Tensor:
    """The first clips of the last split, (C, 3, F, H, W)."""
    clips: list[torch.Tensor] = []
    for batch in list(streams.values())[-1]:
        clip = getattr(batch, "clip", None)
        clip = batch.frames if clip is None else clip
        clip = clip[:, 0] if clip.ndim == 6 else clip
        clips += list(clip[batch.valid])
        if len(clips) >= count:
            break
    return torch.stack(clips[:count])


def _write(out: Path, records: list[dict[str, Any]], bad: list[dict[str, str]]) -> None:
    (out / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    others = _others(records)
    with (out / "results.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*_COLUMNS, *others])
        for r in records:
            known = r["controls"] | r["baselines"]
            rows.writerow([*(r[c] for c in _COLUMNS), *(known[n]["value"] if n in known else "" for n in others)])
    (out / "bad_samples.jsonl").write_text("".join(json.dumps(b) + "\n" for b in bad), encoding="utf-8")


def _in_words(records: list[dict[str, Any]], out: Path, bad: int) -> str:
    """The results as a table."""
    others = _others(records)
    rows = [["metric", "value", "95 % interval", "units", *others]]
    for r in records:
        known = r["controls"] | r["baselines"]
        span = "" if r["low"] is None else f"[{r['low']:.3f}, {r['high']:.3f}]"
        values = [_figure(known.get(name, {}).get("value")) for name in others]
        rows.append([f"{r['probe']}/{r['metric']}", _figure(r["value"]), span, str(r["units"]), *values])
    lines = aligned(rows)
    if bad:
        lines.append(f"{bad} files could not be read; each and its reason: {out / 'bad_samples.jsonl'}")
    return "\n".join([*lines, f"records: {out / 'results.jsonl'}"])


def _others(records: list[dict[str, Any]]) -> list[str]:
    """Names of the controls and baselines that any metric has a figure of."""
    return list(dict.fromkeys(name for r in records for name in (*r["controls"], *r["baselines"])))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
