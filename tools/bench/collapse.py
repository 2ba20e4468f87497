"""Calibrate the collapse watch on runs that collapse on purpose, and measure it on others.

    python tools/bench/collapse.py --out runs/collapse

Short runs of configs/quickstart.yaml, one after the other: healthy ones of several seeds, masks and settings, and ones
with the learning rate or the weight decay a hundred (a thousand) times too large, with gradients into the targets, and
without moving average besides. Every run keeps its readings and what the motion probe measures in OUT/<name>.json, and
is not run again: limits can be fitted anew in seconds.

What is a collapse is decided by the motion probe alone: mean R² of position and velocity, of the target encoder. It has
fallen at the first of two measurements in a row below ``--fallen`` of the untrained encoder's, and a run has collapsed
where it is fallen at the end. Limits are fitted on one half of the runs (``calibrate``); the other half has other seeds
and masks that were not seen (``test``).

A figure's sustained low of a run is the largest share of its highest reading that no ``patience`` readings in a row
stay below. Limits lie in the middle between the lowest of the healthy runs and the highest of the collapsed ones; where
these overlap, 5 % below the former.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.config import PretrainConfig
from vjepa_lab.data.streams import Stream
from vjepa_lab.jepa import JEPA, TOKENS, normalise
from vjepa_lab.merge import load
from vjepa_lab.nn.encoder import Patches
from vjepa_lab.train import callbacks, modules, picture
from vjepa_lab.train.collapse import Reading, Rule, cause
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.run import pretrain

QUICKSTART = Path(__file__).parents[2] / "configs/quickstart.yaml"
FIGURES = ("spread", "entropy")
MASKS = {
    "stretches": "[{name: multiblock, blocks: 2, scale: 1.0, temporal: 0.25}]",
    "tubes": "[{name: tube, ratio: 0.75}]",
    "random": "[{name: random, ratio: 0.75}]",
    "blocks": "[{name: multiblock, blocks: 8, scale: 0.15}, {name: multiblock, blocks: 2, scale: 0.7}]",
}
KINDS = {
    "healthy": [],
    "lr x100": ["optim={start_lr: 1.0e-3, lr: 0.2, min_lr: 2.0e-3}"],
    "decay x100": ["optim.weight_decay=4.0"],
    "decay x1000": ["optim.weight_decay=40.0"],
    "live target": [],
    "live, no EMA": ["ema={start: 0.0, end: 0.0}"],
}
LONGER = 300
"steps of the runs whose weights decay too fast: slower than the others"
CAUSES = {
    "lr x100": "the learning rate",
    "decay x100": "the weight decay",
    "decay x1000": "the weight decay",
    "live target": "the target encoder",
    "live, no EMA": "the target encoder",
}
_HEALTHY = {
    "calibrate": [("stretches", 0), ("stretches", 1), ("stretches", 2), ("tubes", 0), ("tubes", 1)],
    "test": [("stretches", 10), ("stretches", 11), ("tubes", 10), ("random", 10), ("random", 11), ("blocks", 10)],
}
_SETTINGS = {
    "calibrate": {
        "lr / 2": ["optim={start_lr: 5.0e-6, lr: 1.0e-3}"],
        "ema .996": ["ema={start: 0.996, end: 1.0}"],
        "batch 16": ["data.batch=16"],
        "decay x10": ["optim.weight_decay=0.4"],
        "slow": ["data.sources=[{name: synthetic, speed: 0.25}]"],
    },
    "test": {
        "lr x2": ["optim={start_lr: 2.0e-5, lr: 4.0e-3}"],
        "ema .999": ["ema={start: 0.999, end: 1.0}"],
        "batch 24": ["data.batch=24"],
        "width 96": ["encoder={width: 96, heads: 3}"],
        "still": ["data.sources=[{name: synthetic, speed: 0.5, background: 0.0}]"],
        "no warmup": ["optim.warmup=0"],
    },
}
_COLLAPSING = {
    "calibrate": {
        "lr x100": [("stretches", 0), ("stretches", 1), ("tubes", 0)],
        "decay x100": [("stretches", 0), ("tubes", 0)],
        "decay x1000": [("stretches", 0), ("tubes", 0)],
        "live target": [("stretches", 0), ("stretches", 1), ("tubes", 0)],
        "live, no EMA": [("stretches", 0), ("stretches", 1)],
    },
    "test": {
        "lr x100": [("stretches", 10), ("stretches", 11), ("random", 10)],
        "decay x100": [("stretches", 10), ("blocks", 10)],
        "decay x1000": [("stretches", 10), ("random", 10), ("blocks", 10)],
        "live target": [("stretches", 10), ("stretches", 11), ("blocks", 10)],
        "live, no EMA": [("stretches", 10), ("random", 10), ("blocks", 10)],
    },
}


class Run(NamedTuple):
    """One run of the table."""

    half: str
    kind: str
    masks: str
    seed: int
    setting: str = ""

    @property
    def name(self) -> str:
        """Of its file."""
        words = " ".join(part for part in (self.kind, self.masks, self.setting, f"seed {self.seed}") if part)
        return "".join(c if c.isalnum() else "-" for c in words).replace("--", "-")


class Series(NamedTuple):
    """What is kept of a run."""

    readings: list[Reading]
    "of every step"
    lr: list[float]
    probe: list[tuple[int, float]]
    "step and mean R² of position and velocity; the first is the untrained encoder's"


class LiveJEPA(JEPA):
    """The ablation: targets come from the context encoder, and gradients flow into them."""

    def targets(self, patches: Patches) -> Tensor:
        return normalise(self.context(patches))

    def forward(self, clip: Tensor, pairs: list[Any]) -> dict[str, Tensor]:
        return {name: x if name == "loss" else x.detach() for name, x in super().forward(clip, pairs).items()}


class KeptStream(Stream):
    """A stream whose clips are made once, for all runs and measurements."""

    made: dict[str, list[Any]] = {}

    def __iter__(self) -> Iterator[Any]:
        name = repr((self.demand, self.spec, self.batch))
        if name not in self.made:
            self.made[name] = list(super().__iter__())
        return iter(self.made[name])


def runs() -> list[Run]:
    """All runs, healthy and collapsing of both halves."""
    found = []
    for half in ("calibrate", "test"):
        found += [Run(half, "healthy", masks, seed) for masks, seed in _HEALTHY[half]]
        seed = 3 if half == "calibrate" else 13
        found += [Run(half, "healthy", "stretches", seed, setting) for setting in _SETTINGS[half]]
        found += [Run(half, kind, m, s) for kind, places in _COLLAPSING[half].items() for m, s in places]
    return found


def configuration(run: Run, folder: Path, steps: int) -> PretrainConfig:
    """Of a run: its readings are taken at every step, and none makes an alarm."""
    clips = "fit_clips: 256, select_clips: 32, test_clips: 128, cells: 2"
    source = "source: {name: synthetic, split: val, speed: 0.5}"
    words = [
        f"run={{dir: {folder}, seed: {run.seed}, log_every: 1, save_every: {10 * steps}, progress: false}}",
        f"optim={{steps: {steps}, warmup: {steps // 5}, decay: {steps // 5}}}",
        f"probes=[{{name: motion, every: 10, {clips}, {source}}}]",
        "watch={every: 1, spread: 1.0e-9, entropy: 1.0e-9}",
        f"masks={MASKS[run.masks]}",
        "data.batch=8",
    ]
    return load(PretrainConfig, [QUICKSTART], [*words, *KINDS[run.kind], *_SETTINGS[run.half].get(run.setting, [])])


@contextmanager
def patched(run: Run) -> Iterator[None]:
    """Streams that are kept, no picture, and the objective of the run."""
    plain = modules.build_jepa, callbacks.Stream, picture.draw

    def build(config: PretrainConfig) -> JEPA:
        made = plain[0](config)
        made.__class__ = LiveJEPA if run.kind.startswith("live") else type(made)
        return made

    modules.build_jepa, callbacks.Stream = build, KeptStream  # type: ignore[assignment]
    picture.draw = lambda *_: None  # type: ignore[assignment]
    try:
        yield
    finally:
        modules.build_jepa, callbacks.Stream, picture.draw = plain  # type: ignore[assignment]


def series(run: Run, out: Path, steps: int) -> Series:
    """Of a run, from its file; it is trained where there is none."""
    file = out / f"{run.name}.json"
    if not file.is_file():
        folder = Path(tempfile.mkdtemp(dir=out))
        config = configuration(run, folder, LONGER if run.kind.startswith("decay") else steps)
        with patched(run):
            assert pretrain(config) == 0
        rows = read_metrics(folder)
        shutil.rmtree(folder)
        keys = ("step", "context_std", "context_rank", "target_context_gap", "context_weights", "lr")
        taken = [[row[key] for key in keys] for row in rows if "context_rank" in row]
        probe = [
            [row["step"], (row["motion/position"] + row["motion/velocity"]) / 2]
            for row in rows
            if "motion/position" in row
        ]
        kept = {"width": config.encoder.resolved().width, "readings": taken, "probe": probe}
        file.write_text(json.dumps(kept))
    kept = json.loads(file.read_text())
    most = math.log(min(TOKENS, kept["width"]))
    readings = [
        Reading(int(step), spread, math.log(rank) / most, rank, gap, weights)
        for step, spread, rank, gap, weights, _ in kept["readings"]
    ]
    return Series(readings, [row[-1] for row in kept["readings"]], [(int(s), value) for s, value in kept["probe"]])


def fall(found: Series, share: float) -> int | None:
    """Step at which the probe has fallen for good, or None."""
    untrained = found.probe[0][1]
    low = [value < share * untrained for _, value in found.probe]
    if not (low[-1] and low[-2]):
        return None
    return next(step for (step, _), *pair in zip(found.probe, low, low[1:], strict=False) if all(pair))


def at(found: Series, every: int) -> list[Reading]:
    """The readings that a watch takes."""
    return [reading for reading in found.readings if reading.step == 1 or reading.step % every == 0]


def sustained(readings: Sequence[Reading], figure: str, patience: int) -> float:
    """The largest share of the highest reading at which there is no alarm."""
    values = [getattr(reading, figure) for reading in readings]
    highest = [max(values[: i + 1]) for i in range(len(values))]
    shares = [value / top for value, top in zip(values, highest, strict=True)]
    return min(max(shares[i : i + patience]) for i in range(len(shares) - patience + 1))


def fit(healthy: Sequence[float], collapsed: Sequence[float]) -> float:
    """The limit that the sustained lows of both ask for."""
    low, high = min(healthy), max(collapsed)
    return (low + high) / 2 if high < low else 0.95 * low


def alarm(found: Series, limits: dict[str, float], *, every: int, patience: int) -> tuple[int, str, str] | None:
    """Step, figure and cause of the first alarm."""
    rule, taken = Rule(limits, patience=patience), at(found, every)
    for reading in taken:
        fired = rule.add(reading.step, reading._asdict())
        if fired is not None:
            lr = found.lr[reading.step - 1]
            return reading.step, fired.figure, cause(taken[0], reading, lr=lr, decay=0.0)
    return None


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run what is missing, fit, print the tables, and give the figures back."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = [run for run in runs() if args.only in run.name]
    if args.record:
        for i, run in enumerate(chosen):
            print(f"{i + 1} of {len(chosen)}: {run.name}", flush=True)
            series(run, args.out, args.steps)
        return {}
    found = {run: series(run, args.out, args.steps) for run in chosen}
    fell = {run: fall(s, args.fallen) for run, s in found.items()}
    lows = {run: {f: sustained(at(s, args.every), f, args.patience) for f in FIGURES} for run, s in found.items()}
    half = [run for run in chosen if run.half == "calibrate"]
    limits = {}
    for figure in FIGURES:
        healthy = [lows[run][figure] for run in half if run.kind == "healthy"]
        collapsed = [lows[run][figure] for run in half if fell[run] is not None]
        limits[figure] = fit(healthy, collapsed)
        print(
            f"{figure}: healthy {min(healthy):.2f} to {max(healthy):.2f}, collapsed {min(collapsed):.2f} to "
            f"{max(collapsed):.2f}; limit {limits[figure]:.2f}"
        )
    used = {"spread": args.spread or limits["spread"], "entropy": args.entropy or limits["entropy"]}
    print(f"used: {used}, a reading every {args.every} steps, patience {args.patience}\n")
    fired = {run: alarm(s, used, every=args.every, patience=args.patience) for run, s in found.items()}
    print("| half | run | probe, untrained -> end | lows: spread, entropy | probe falls | alarm | lead | by, cause |")
    print("|---|---|---|---|---|---|---|---|")
    for run in chosen:
        print(_row(run, found[run], lows[run], fell[run], fired[run]))
    return {"limits": limits, **_score(chosen, fell, fired)}


def _row(run: Run, found: Series, low: dict[str, float], fell: int | None, fired: tuple[int, str, str] | None) -> str:
    lead = "" if fell is None or fired is None else f"{fell - fired[0]:+d}"
    why = "" if fired is None else f"{fired[1]}: {fired[2].split(' (')[0].split(':')[0]}"
    shown = " ".join(part for part in (run.kind, run.masks, run.setting, f"seed {run.seed}") if part)
    cells = [
        run.half,
        shown,
        f"{found.probe[0][1]:.3f} -> {found.probe[-1][1]:.3f}",
        f"{low['spread']:.2f}, {low['entropy']:.2f}",
        str(fell or ""),
        str(fired[0] if fired else ""),
        lead,
        why,
    ]
    return f"| {' | '.join(cells)} |"


def _score(
    chosen: Sequence[Run], fell: dict[Run, int | None], fired: dict[Run, tuple[int, str, str] | None]
) -> dict[str, Any]:
    """Recall, false alarms, lead and causes of each half, printed."""
    scores: dict[str, Any] = {}
    for half in ("calibrate", "test"):
        mine = [run for run in chosen if run.half == half]
        bad = [run for run in mine if fell[run] is not None]
        good = [run for run in mine if fell[run] is None]
        caught = [run for run in bad if fired[run] is not None]
        false = [run for run in good if fired[run] is not None]
        lead = sorted((fell[run] or 0) - (fired[run] or (0,))[0] for run in caught)
        right = [run for run in caught if (fired[run] or ("",) * 3)[2].startswith(CAUSES.get(run.kind, "none"))]
        scores[half] = {
            "recall": (len(caught), len(bad)),
            "false": (len(false), len(good)),
            "lead": lead,
            "causes": (len(right), len(caught)),
        }
        middle = statistics.median(lead) if lead else math.nan
        print(
            f"\n{half}: {len(caught)} of {len(bad)} collapses found, {len(false)} false alarms in {len(good)} runs; "
            f"the alarm comes {middle:g} steps before the probe falls (median; {lead}); the planted cause is named in "
            f"{len(right)} of {len(caught)}"
        )
    return scores


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Calibrate the collapse watch on runs that collapse on purpose, and measure it on others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/collapse"), help="folder of the kept readings")
    parser.add_argument("--steps", type=int, default=120, help="of a run")
    parser.add_argument("--only", default="", help="runs whose name holds this text")
    parser.add_argument("--record", action="store_true", help="run what is missing, and nothing else")
    parser.add_argument("--every", type=int, default=10, help="steps between readings")
    parser.add_argument("--patience", type=int, default=3, help="readings in a row")
    parser.add_argument("--spread", type=float, default=None, help="limit to use in place of the fitted one")
    parser.add_argument("--entropy", type=float, default=None, help="limit to use in place of the fitted one")
    parser.add_argument("--fallen", type=float, default=0.75, help="share of the untrained encoder's probe")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    return parser


if __name__ == "__main__":
    main()
