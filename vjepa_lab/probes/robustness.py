"""Five axes of robustness. A classifier is fitted once on clean clips, frozen, and shown degraded ones.

Some changes should leave the answer as it is (*invariant* axes), others should change it (*sensitive* ones), so that an
encoder blind to time is not rewarded for it. ``top1`` is accuracy; retention is what is left of the clean accuracy on
the same videos, and ``retention_corrected`` takes chance from both. What is not defined is left out, never 0; where the
clean accuracy is at chance, all retention is.

1. ``discriminability`` (no head): are classes apart in the features as they are? By pair of classes ``all/neighbour``,
   ``all/centroid``, ``all/auroc``, and so by strata of pairs where the names of classes allow; ``neighbour``,
   ``silhouette``, ``scatter_ratio`` of the whole set.
2. ``corruption`` (invariant): ``<type>/<severity>`` and its ``retention``; over all types and severities ``mpc`` (the
   mean accuracy), ``mce`` (1 - mpc), ``retention`` (mpc / clean, also known as rPC) and ``retention_corrected``. Types
   in ``per_frame`` are measured once more, drawn anew for every frame, as ``<type>_per_frame``, outside the means.
3. ``fine_grained`` (sensitive): for the 174 classes of Something-Something v2 the clips of pretending (``top1``,
   ``top1_of_22``) and ``pretend_vs_real``, whether the class of pretending or of doing scores higher, balanced (chance
   1/2); for any source the figures of the inner probe ``contact``, on a world of its own, by their names.
4. ``occlusion`` (invariant): ``<kind>/<severity>``, its ``retention``; ``cosine`` and ``cosine_centred`` of clean and
   occluded features; ``neighbours``, the share of the nearest clean clips that have the right label
   (``clean_neighbours`` of the clip itself), and ``overlap``, the share of them that are the clean clip's own. A high
   raw cosine beside a low centred one is a common offset, and says nothing of the content.
5. ``direction`` (sensitive): ``dscs`` and its parts (see ``_directions.py``), of clips and their reversals; ``arrow``,
   how often a linear head tells the two apart (see the probe ``arrow``); ``shuffle``, ``static`` and ``noise`` with
   top1 and retention, and ``shuffle/sensitivity``, 1 - retention.

Decisions:
- Degradations act on pixels before they are normalised, by (key, kind, severity): all encoders see the same.
- Defaults are those of the published study as far as they are known: six types at severities 1, 3 and 5.
  ``corruptions: [all]`` and ``severities: [1, 2, 3, 4, 5]`` are the 15 types in full.
- Published mean corruption errors are divided by those of AlexNet on pictures, which mean nothing here: ``mce`` is not.
- Elastic deformation per frame is a boiling picture and per clip a bent one. Which of them was published is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import _stats, arrow
from vjepa_lab.probes._clean_head import CleanHead, Kind, Read, Shape
from vjepa_lab.probes._corruptions import CORRUPTIONS, MAIN, corrupt
from vjepa_lab.probes._directions import antonyms, distances, figures, parts, symmetric
from vjepa_lab.probes._discriminability import discriminability, strata
from vjepa_lab.probes._extract import Transform
from vjepa_lab.probes._neighbours import consistency, cosines, neighbours, overlap
from vjepa_lab.probes._occlusions import LEVELS, Fill, occlude
from vjepa_lab.probes._pretend import CLASSES, pretend_scores
from vjepa_lab.probes._retention import retained
from vjepa_lab.probes._retime import Kind as Time
from vjepa_lab.probes._retime import retime
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.registry import PROBES
from vjepa_lab.report import Section, Value, interval, table


class Axis(NamedTuple):
    """What is asked of an encoder, and the one figure that tells how much of it there is."""

    asks: Literal["invariant", "sensitive"]
    relative: tuple[str, ...]
    "the first of these that is defined"


AXES = {
    "discriminability": Axis("sensitive", ("neighbour",)),
    "corruption": Axis("invariant", ("retention_corrected", "retention")),
    "fine_grained": Axis("sensitive", ("pretend_vs_real", "push")),
    "occlusion": Axis("invariant", ("retention_corrected", "retention")),
    "direction": Axis("sensitive", ("dscs", "shuffle/sensitivity")),
}
PUBLISHED = ("motion_blur", "snow", "pixelate", "impulse_noise", "brightness", "elastic_transform")
TIMES: tuple[Time, ...] = ("shuffle", "static", "noise")
_INNER = "fine_grained/"
_PREVIOUS = " previous"


@PROBES.register
@dataclass
class Robustness:
    """Accuracy and features under degraded clips. See the module's text for what it yields."""

    every: int = 10_000
    "steps between two measurements during training"
    batch: int = 16
    "clips per batch on each rank"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val", "label": "direction"})
    "labelled clips to fit on, and to measure on behind them"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to measure on: the validation split of a data set"
    fit_clips: int = 1024
    "clips to fit and choose on; 0: all, where test is another source"
    test_clips: int = 256
    "clips to measure on, each once for every type and severity; 0: all that are left"
    frames: int | None = None
    "frames per clip; null: the encoder's"
    fps: float | None = None
    "frames per second; null: as the driver says"
    spread: bool = False
    "spread the frames over the whole video instead, as published"
    axes: list[str] = field(default_factory=lambda: list(AXES))
    "discriminability | corruption | fine_grained | occlusion | direction"
    head: Kind = "linear"
    "linear or knn on the mean token, or attentive on all tokens, as published"
    depth: int = 4
    "blocks of an attentive head"
    heads: int = 16
    "attention heads of it, a divisor of the features' width"
    lrs: list[float] = field(default_factory=lambda: [5e-3, 3e-3, 1e-3, 3e-4, 1e-4])
    "learning rates it is chosen from"
    wds: list[float] = field(default_factory=lambda: [0.8, 0.4, 0.1, 0.01])
    "weight decays it is chosen from"
    epochs: int = 20
    "passes over the clips to fit on"
    corruptions: list[str] = field(default_factory=lambda: ["published"])
    "types; published: the six of the study, all: the 15 of the benchmark"
    severities: list[int] = field(default_factory=lambda: [1, 3, 5])
    "of each type, 1 to 5"
    per_frame: list[str] = field(default_factory=lambda: ["elastic_transform"])
    "types to measure also with draws of their own for every frame"
    occlusions: list[str] = field(default_factory=lambda: list(LEVELS))
    "moving_block | temporal_dropout | patch_dropout, each at its three severities"
    fill: Fill = "mean"
    "what hidden frames show: mean (colour) | previous (frame)"
    near: int = 5
    "nearest neighbours"
    antonyms: str = "synthetic"
    "what reversal makes of classes: synthetic (label: direction) | ssv2_strict | ssv2_lexical | ssv2_physical | none"
    pairs: dict[str, str] = field(default_factory=dict)
    "or pairs of classes, by their names, in place of antonyms"
    contact: dict[str, Any] = field(default_factory=lambda: {"name": "contact"})
    "the inner probe of the third axis; empty: none"

    def __post_init__(self) -> None:
        self._found: dict[str, Estimate] = {}
        problems = []
        kinds = (*CORRUPTIONS, "published", "all")
        for name, known in (
            ("axes", tuple(AXES)),
            ("corruptions", kinds),
            ("per_frame", tuple(CORRUPTIONS)),
            ("occlusions", tuple(LEVELS)),
        ):
            wrong = [value for value in getattr(self, name) if value not in known]
            if wrong:
                problems.append(f"{name}: got '{wrong[0]}', expected some of {', '.join(known)}")
        if not self.axes:
            problems.append(f"axes: got none, expected some of {', '.join(AXES)}")
        if not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            problems.append(f"severities: got {self.severities}, expected some of 1 to 5")
        if self.fill == "previous" and "temporal_dropout" not in self.occlusions:
            problems.append(
                "fill: got 'previous' without temporal_dropout, which alone hides whole frames; leave it out"
            )
        if self.pairs and self.antonyms != "none":
            problems.append(f"pairs: got some beside antonyms '{self.antonyms}', expected antonyms: none")
        if self.contact and self.contact.get("name") == "robustness":
            problems.append("contact: got robustness itself, expected another probe, as {name: contact}")
        problems += [p for p in [count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))] if p]
        if problems:
            raise ValueError("probe robustness: " + "; ".join(problems))
        self._inner()

    def demands(self) -> dict[str, Demand]:
        fit = Demand(self.source, count=self.fit_clips or None, frames=self.frames, fps=self.fps, spread=self.spread)
        inner = self._inner()
        own = fit_select_test(fit._replace(share=0.2), test=self.test, count=self.test_clips)
        return own | ({_INNER + name: demand for name, demand in inner.demands().items()} if inner else {})

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        self._found = {}
        for metric, value in self._measured(encoder, streams):
            self._found[metric] = value
            yield metric, value

    def sections(self) -> list[Section]:
        """The axes of the last run, one figure each."""
        rows: list[list[object]] = []
        for axis in (axis for axis in AXES if axis in self.axes):
            named = next((m for r in AXES[axis].relative if (m := f"{axis}/{r}") in self._found), None)
            shown = "" if named is None else interval(Value(*self._found[named][:3]))
            rows.append([axis, AXES[axis].asks, named or "not defined", shown])
        said = "Invariant: the answer should stay. Sensitive: what is asked for should show."
        return [Section("Axes of robustness", table(["axis", "asks to be", "figure", "value"], rows, caption=said))]

    def _measured(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        own = {name: stream for name, stream in streams.items() if not name.startswith(_INNER)}
        shape = Shape(self.depth, self.heads, tuple(self.lrs), tuple(self.wds), self.epochs)
        head = CleanHead(encoder, own, self.head, shape)
        turns = self._turns(head.classes, own["test"].classes) if "direction" in self.axes else None
        reads = head.read(own["test"], {"": None, **self._transforms()})
        clean = reads[""]
        yield "clean/top1", _stats.accuracy(clean.right, clean.unit)
        if "discriminability" in self.axes:
            pairs = strata(own["test"].classes, head.classes)
            for metric, value in discriminability(clean.x, clean.label, clean.unit, pairs).items():
                yield f"discriminability/{metric}", value
        if "corruption" in self.axes:
            yield from self._corruption(reads, head.classes)
        if "occlusion" in self.axes:
            yield from self._occlusion(reads, head.classes)
        if turns is not None:
            yield from _direction(reads, head.classes, turns)
            both = {name: arrow.read(encoder, stream, [-1]) for name, stream in own.items()}
            told = arrow.told({n: (b.forward[-1], b.backward[-1]) for n, b in both.items()}, both["test"].unit)
            yield "direction/arrow", told[1]["accuracy"]
        if "fine_grained" in self.axes and head.classes == CLASSES:
            yield from _pretending(clean)
        inner = self._inner()
        if inner:
            theirs = {name.removeprefix(_INNER): s for name, s in streams.items() if name.startswith(_INNER)}
            for metric, value in inner.run(encoder, theirs):
                yield f"{_INNER}{metric}", value

    def _transforms(self) -> dict[str, Transform | None]:
        """What is done to the clips of the test, by the name under which its figures stand."""
        out: dict[str, Transform | None] = {}
        for name, kind, severity, coherent in self._corruptions():
            out[name] = partial(_corrupted, kind, severity, coherent)
        out |= {tag: change for _, tag, change in self._occlusions()}
        if "direction" in self.axes:
            out["reversed"] = partial(_retimed, "reverse")
            out |= {f"direction/{kind}": partial(_retimed, kind) for kind in TIMES}
        return out

    def _corruptions(self) -> Iterator[tuple[str, str, int, bool]]:
        """Name, type and severity, and whether draws are for the clip as a whole."""
        if "corruption" not in self.axes:
            return
        sets = {"published": PUBLISHED, "all": MAIN}
        kinds = dict.fromkeys(k for name in self.corruptions for k in sets.get(name, (name,)))
        for kind, coherent in [(k, True) for k in kinds] + [(k, False) for k in self.per_frame]:
            for severity in (s for s in self.severities if s <= len(CORRUPTIONS[kind].levels)):
                yield f"corruption/{kind}{'' if coherent else '_per_frame'}/{severity}", kind, severity, coherent

    def _corruption(self, reads: Mapping[str, Read], classes: int) -> Iterator[tuple[str, Estimate]]:
        clean, every = reads[""], []
        for name, _, _, coherent in self._corruptions():
            right = reads[name].right
            every += [right] if coherent else []
            yield from _named(name, retained(right, clean.right, clean.unit, classes))
        if every:
            for metric, value in retained(torch.stack(every).mean(0), clean.right, clean.unit, classes):
                yield f"corruption/{'mpc' if metric == 'top1' else metric}", value
                if metric == "top1":
                    yield "corruption/mce", _complement(value)

    def _occlusions(self) -> Iterator[tuple[str, str, Transform]]:
        """Name, the tag of what is read for it, and what is done to the clips."""
        for kind in self.occlusions if "occlusion" in self.axes else []:
            fill: Fill = self.fill if kind == "temporal_dropout" else "mean"
            for severity in range(1, len(LEVELS[kind]) + 1):
                name = f"occlusion/{kind}/{severity}"
                yield name, name + ("" if fill == "mean" else _PREVIOUS), partial(_occluded, kind, severity, fill)

    def _occlusion(self, reads: Mapping[str, Read], classes: int) -> Iterator[tuple[str, Estimate]]:
        clean, every = reads[""], []
        nearest = neighbours(clean.x, clean.x, clean.unit, self.near)
        yield "occlusion/clean_neighbours", _stats.accuracy(consistency(nearest, clean.label), clean.unit)
        for name, tag, _ in self._occlusions():
            hidden = reads[tag]
            every.append(hidden.right)
            yield from _named(name, retained(hidden.right, clean.right, clean.unit, classes))
            raw, centred = cosines(clean.x, hidden.x)
            near = neighbours(hidden.x, clean.x, clean.unit, self.near)
            for metric, rows in (
                ("cosine", raw),
                ("cosine_centred", centred),
                ("neighbours", consistency(near, clean.label)),
                ("overlap", overlap(near, nearest)),
            ):
                yield f"{name}/{metric}", _stats.accuracy(rows, clean.unit)
        if every:
            for metric, value in retained(torch.stack(every).mean(0), clean.right, clean.unit, classes):
                yield f"occlusion/{metric}", value

    def _turns(self, classes: int, names: list[str] | None) -> tuple[Tensor, Tensor]:
        """The antonym of each class and which classes are symmetric in time.

        Raises:
            ValueError: the map is for other classes, or a pair names a class that there is not.
        """
        if self.antonyms != "none":
            return antonyms(self.antonyms, classes), symmetric(self.antonyms, classes)
        known = names or [str(k) for k in range(classes)]
        wrong = [name for pair in self.pairs.items() for name in pair if name not in known]
        if wrong:
            raise ValueError(
                f"probe robustness: pairs: got '{wrong[0]}', expected classes of the source, as '{known[0]}'"
            )
        chosen = {known.index(a): known.index(b) for a, b in self.pairs.items()}
        return antonyms(chosen, classes), symmetric(chosen, classes)

    def _inner(self) -> Any:
        """The probe of contact, where it is asked for."""
        return PROBES.build(self.contact) if self.contact and "fine_grained" in self.axes else None


def _direction(reads: Mapping[str, Read], classes: int, turns: tuple[Tensor, Tensor]) -> Iterator[tuple[str, Estimate]]:
    clean, back = reads[""], reads["reversed"]
    rows = parts(clean.scores, back.scores, clean.label, *turns, distances(clean.x, back.x))
    for metric in figures(rows[:1]):
        value = _stats.bootstrap(rows, clean.unit, lambda s, m=metric: figures(s)[m])
        if not math.isnan(value.value):
            yield f"direction/{metric}", value
    for kind in TIMES:
        name = f"direction/{kind}"
        for metric, value in retained(reads[name].right, clean.right, clean.unit, classes):
            yield f"{name}/{metric}", value
            if (kind, metric) == ("shuffle", "retention"):
                yield f"{name}/sensitivity", _complement(value)


def _corrupted(kind: str, severity: int, coherent: bool, clip: Tensor, keys: list[str]) -> Tensor:
    return corrupt(clip, kind, severity, keys=keys, coherent=coherent)


def _occluded(kind: str, severity: int, fill: Fill, clip: Tensor, keys: list[str]) -> Tensor:
    return occlude(clip, kind, severity, keys=keys, fill=fill)


def _retimed(kind: Time, clip: Tensor, keys: list[str]) -> Tensor:
    return retime(clip, kind, keys=keys)


def _pretending(clean: Read) -> Iterator[tuple[str, Estimate]]:
    found = pretend_scores(clean.scores, clean.label)
    for metric, rows in found.items():
        there = ~rows.isnan()
        if there.any():
            yield f"fine_grained/{metric}", _stats.accuracy(rows[there], clean.unit[there])
    sides = [found["pretending"], found["doing"]]
    if all((~side.isnan()).any() for side in sides):
        summed = torch.stack([part for side in sides for part in (side.nan_to_num(), (~side.isnan()).double())], 1)
        yield (
            "fine_grained/pretend_vs_real",
            _stats.bootstrap(summed, clean.unit, lambda s: (s[:, 0] / s[:, 1] + s[:, 2] / s[:, 3]) / 2),
        )


def _named(name: str, found: Iterator[tuple[str, Estimate]]) -> Iterator[tuple[str, Estimate]]:
    """Accuracy by the name itself and its retention behind it; what is corrected for chance is for means alone."""
    for metric, value in found:
        if metric == "top1":
            yield name, value
        elif metric == "retention":
            yield f"{name}/{metric}", value


def _complement(value: Estimate) -> Estimate:
    """1 - value."""
    return Estimate(1 - value.value, 1 - value.high, 1 - value.low, value.units, value.sd)
