"""What is seen in a clip? Attentive, linear or nearest-neighbour classifiers on frozen features.

``attentive`` is the probe of the V-JEPA papers: a few blocks over all tokens of one or more layers, a grid of learning
rates and weight decays trained at once (``_sweep.py``), several segments and crops per video. ``linear`` (a grid on the
mean token, or that of each of a few regions, standardised) and ``knn`` are cheap enough for use during training.

Yields ``top1``, with more than five classes ``top5``, and ``class_mean`` (top1 averaged over the classes): of the
videos of the test split that could be read, with intervals over videos; with several seeds the mean over them. For
trained heads also the chosen ``lr`` and ``wd`` (their means over seeds).

Decisions:
- The best head is chosen on a share of the training videos that no head is trained on, and reported on the test split.
  ``selection: eval`` trains on all of them and chooses on the test split itself, as published tables do; its figures
  are too high, and are called ``top1_chosen_on_test`` and so on, for nobody to mistake one for the other.
- A grid of 4-block heads costs as much as its heads together. ``race: true`` trains all of them for a while only.
- The test split is complete: no batch is dropped and no video is counted twice. Videos without a label are left out.
- ``knn`` averages the views' features; ``_classifier.py`` says how neighbours vote. How many is chosen as heads are.

Reference: V-JEPA 2 paper, section 5 and appendix C.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.batch import ClipBatch
from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._classifier import fit_classifier
from vjepa_lab.probes._extract import Table, extract
from vjepa_lab.probes._heads import Bank, Head
from vjepa_lab.probes._labelled import Aggregate, Encoded, Shown, Views, labelled, outcome, tokens_of
from vjepa_lab.probes._recall import class_mean
from vjepa_lab.probes._stats import Estimate, accuracy, over_seeds
from vjepa_lab.probes._sweep import Feed, Memory, Plan, Rows, Swept, best, sweep, within
from vjepa_lab.registry import PROBES

log = logging.getLogger("vjepa_lab")

_OPTIONS = {
    "head": ("attentive", "linear", "knn"),
    "aggregate": ("softmax_mean", "joint_tokens"),
    "features": ("memory", "stream"),
    "selection": ("split", "eval"),
}


@PROBES.register
@dataclass
class Classify:
    """Accuracy of a classifier on frozen features. See the module's text for what it yields."""

    every: int = 2000
    "steps between two measurements during training"
    batch: int = 16
    "videos per batch on each rank, in encoding and in training on streamed features"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val", "label": "direction"})
    "labelled clips to train on, and to report on behind them"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to report on: the validation split of a data set"
    fit_clips: int = 1024
    "videos to train and choose on; 0: all, where test is another source"
    test_clips: int = 512
    "videos to report on; 0: all that are left"
    head: Literal["attentive", "linear", "knn"] = "attentive"
    "what reads the features"
    layers: list[int] = field(default_factory=lambda: [-1])
    "blocks (from 0), -1: the output; an attentive head reads the tokens of several"
    cells: int = 1
    "of linear and knn: tokens are averaged within cells x cells regions, which stay apart; an attentive head sees all"
    frames: int | None = None
    "frames per clip; null: the driver's; pictures are repeated"
    crop: int | None = None
    "pixels per side; null: the driver's"
    fps: float | None = None
    "frames per second; fps and stride null: the driver's"
    stride: int | None = None
    "every n-th frame"
    segments: int = 1
    "clips per video in evaluation, each in an equal part of it"
    views: int = 1
    "crops of each, along the longer side"
    aggregate: Aggregate = "softmax_mean"
    "how segments make one answer: softmax_mean (of all views) | joint_tokens (one answer per crop, as released)"
    features: Literal["memory", "stream"] = "memory"
    "memory: encode the training clips once and keep all tokens; stream: random crops, encoded in every epoch"
    depth: int = 4
    "blocks of an attentive head; 1 (cross-attention alone) is far cheaper, see ``_heads.py``"
    heads: int = 16
    "attention heads, a divisor of the features' width"
    lrs: list[float] = field(default_factory=lambda: [5e-3, 3e-3, 1e-3, 3e-4, 1e-4])
    "learning rates of the grid"
    wds: list[float] = field(default_factory=lambda: [0.8, 0.4, 0.1, 0.01])
    "weight decays of the grid"
    epochs: int = 20
    "passes over the training clips"
    rows: int = 128
    "videos per step of the heads, on features in memory"
    seeds: int = 1
    "first weights of every point of the grid"
    selection: Literal["split", "eval"] = "split"
    "where the best head is chosen: a share of the training videos | the test split, as published"
    share: float = 0.1
    "of the training videos, to choose on"
    race: bool = False
    "compare the heads early, where they are chosen, and go on with the best (``_sweep.RACE``): a grid for two heads"

    def __post_init__(self) -> None:
        problems = []
        for name, known in _OPTIONS.items():
            if getattr(self, name) not in known:
                problems.append(f"{name}: got '{getattr(self, name)}', expected {' or '.join(known)}")
        if not self.layers or (self.head != "attentive" and len(self.layers) > 1):
            problems.append(
                f"layers: got {self.layers} for head {self.head}, expected -1 (the output) or blocks, several for an "
                "attentive head alone"
            )
        if self.cells > 1 and self.head == "attentive":
            problems.append(
                f"cells: got {self.cells} for an attentive head, expected 1: it sees all tokens as they are"
            )
        for name in ("segments", "views", "rows", "depth", "heads", "batch", "cells"):
            if getattr(self, name) < 1:
                problems.append(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not 0 < self.share < 1:
            problems.append(f"share: got {self.share}, expected a number between 0 and 1")
        if self.features == "stream" and self.head != "attentive":
            problems.append(f"features: got stream for head {self.head}, expected memory: its features are few")
        wrong = count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))
        problems += [wrong] if wrong else []
        if problems:
            raise ValueError("probe classify: " + "; ".join(problems))
        self._plan(0).trials()

    def demands(self) -> dict[str, Demand]:
        fit = Demand(
            self.source,
            count=self.fit_clips or None,
            share=self.share,
            frames=self.frames,
            crop=self.crop,
            fps=self.fps,
            stride=self.stride,
        )
        splits = fit_select_test(fit, test=self.test, count=self.test_clips)
        shown = {"clips": self.segments, "views": self.views}
        found = {name: demand._replace(**shown) for name, demand in splits.items()}
        part = "train" if self.selection == "split" else "all"
        found["fit"] = splits["fit"]._replace(part=part, clips=self._views().trained)
        return found if self.selection == "split" else {"fit": found["fit"], "test": found["test"]}

    def refusal(self, encoder: FrozenEncoder) -> str | None:
        """Why it cannot measure this encoder: its width does not go with the attention heads."""
        try:
            self._head(encoder.width, 2).check()
        except ValueError as error:
            return str(error)
        return None

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        names = {tuple(s.classes) for s in streams.values() if s.classes is not None}
        if len(names) > 1:
            raise ValueError(
                f"probe classify: {streams['fit'].name} and {streams['test'].name} number their classes differently; "
                "give both sources the same classes (a file with one name per line)"
            )
        self._head(encoder.width, 2).check()  # before anything is encoded
        if self.features == "stream":
            yield from self._streamed(encoder, streams)
            return
        pool = "none" if self.head == "attentive" else "mean"
        tables = {
            split: labelled(extract(encoder, stream, layers=self.layers, pool=pool, cells=self.cells), stream.name)
            for split, stream in streams.items()
        }
        classes = _classes(streams, int(max(t.y["label"].max() for t in tables.values())) + 1)
        seen = {split: self._seen(table) for split, table in tables.items()}
        y = {split: {"label": table.y["label"], "unit": table.unit} for split, table in tables.items()}
        if self.head == "knn":
            rows = {split: (x.mean(1), y[split]["label"]) for split, x in seen.items()}
            votes = fit_classifier("knn", rows["fit"], rows[self._chosen_on], classes)(rows["test"][0])
            yield from self._figures(
                [{f"top{k}": within(votes, rows["test"][1], k) for k in (1, 5)}], y["test"], classes
            )
            return
        if self.head == "linear":
            mean, spread = seen["fit"].flatten(0, 1).mean(0), seen["fit"].flatten(0, 1).std(0, unbiased=False)
            seen = {split: (x - mean) / spread.clamp_min(1e-6) for split, x in seen.items()}
        device, seed = encoder.device, dist.derive(streams["fit"].seed, "classify")
        fed = Memory(seen["fit"][:, 0], {"label": y["fit"]["label"]}, batch=self.rows, shuffle=seed, device=device)
        feeds: dict[str, Feed] = {
            split: Memory(x, y[split], batch=self.batch, device=device) for split, x in seen.items() if split != "fit"
        }
        yield from self._trained(fed, feeds, classes, seen["fit"].shape[-1], streams)

    def _streamed(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        if any(stream.shuffled for stream in streams.values()):
            log.warning("classify: shuffled is left out: features that stream have no labels to exchange")
            return
        if streams["fit"].classes is None:
            raise ValueError(
                f"probe classify: {streams['fit'].name} does not say how many classes there are, which must be "
                "known before streaming; give the source classes, or use features: memory"
            )

        def seen(batch: ClipBatch) -> Tensor:
            return self._views().joined(tokens_of(encoder, batch.clip, self.layers))

        fed = Encoded(streams["fit"], seen, ["label"])
        feeds: dict[str, Feed] = {
            split: Shown(stream, seen, ["label"]) for split, stream in streams.items() if split != "fit"
        }
        yield from self._trained(fed, feeds, _classes(streams, 0), encoder.width, streams)

    def _trained(
        self, fed: Feed, feeds: Mapping[str, Feed], classes: int, width: int, streams: Mapping[str, Stream]
    ) -> Iterator[tuple[str, Estimate]]:
        """Sweep, choose, report."""
        plan = self._plan(dist.derive(streams["fit"].seed, "heads"))

        def judge(swept: Swept) -> tuple[Tensor, Tensor]:
            at = swept.measure(feeds[self._chosen_on], _measure)
            return at["top1"].mean(0), at["loss"].mean(0)

        head, race = self._head(width, classes), judge if self.race else None
        swept = sweep(head, plan, fed, race=race, device=streams["fit"].device, progress=True)
        chosen = best(swept.trials, *judge(swept))
        found = swept.subset(chosen).measure(feeds["test"], _measure)
        yield from self._figures(
            [{k: found[k][:, i] for k in ("top1", "top5")} for i in range(len(chosen))], found, classes
        )
        for name in ("lr", "wd"):
            values = torch.tensor([getattr(swept.trials[k], name) for k in chosen], dtype=torch.float64)
            spread = values.std().item() if len(chosen) > 1 else math.nan
            yield name, Estimate(values.mean().item(), units=len(found["unit"].unique()), sd=spread)

    def _figures(
        self, right: list[dict[str, Tensor]], y: Mapping[str, Tensor], classes: int
    ) -> Iterator[tuple[str, Estimate]]:
        """Figures of the test split from which rows (n,) each seed gets right."""
        label, unit = y["label"], y["unit"]
        suffix = "" if self.selection == "split" else "_chosen_on_test"
        for name in ("top1", "top5") if classes > 5 else ("top1",):
            yield f"{name}{suffix}", over_seeds([accuracy(one[name], unit) for one in right])
        yield f"class_mean{suffix}", over_seeds([class_mean(one["top1"], label, unit) for one in right])

    def _seen(self, table: Table) -> Tensor:
        """Features as heads are to see them: (n, V', N', D), or (n, V', D) of the mean token."""
        x = (
            torch.cat([table.x[layer] for layer in self.layers], -2)
            if self.head == "attentive"
            else table.x[self.layers[0]]
        )
        if self.head == "attentive":
            return self._views().joined(x)
        if x.ndim == 2:
            return x[:, None]
        return x if self.aggregate == "softmax_mean" else x.unflatten(1, (self.segments, -1)).mean(1)

    @property
    def _chosen_on(self) -> str:
        return "select" if self.selection == "split" else "test"

    def _head(self, width: int, classes: int) -> Head:
        kind: Literal["attentive", "linear"] = "attentive" if self.head == "attentive" else "linear"
        return Head(kind, width, {"label": classes}, depth=self.depth, heads=self.heads)

    def _views(self) -> Views:
        return Views(self.segments, self.views, self.aggregate)

    def _plan(self, seed: int) -> Plan:
        return Plan(self.lrs, self.wds, self.seeds, self.epochs, seed)


def _measure(bank: Bank, rows: Rows) -> dict[str, Tensor]:
    return {**rows.y, **outcome(bank, rows.x, rows.y["label"])}


def _classes(streams: Mapping[str, Stream], seen: int) -> int:
    """How many classes there are: as the sources say, else as many as occur."""
    named = next((len(s.classes) for s in streams.values() if s.classes is not None), 0)
    return max(named, seen, 2)
