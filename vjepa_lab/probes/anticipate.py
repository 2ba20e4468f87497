"""What will be done next? Attentive heads on a clip that ends some time before an action, for EPIC-KITCHENS-100.

A head reads the tokens of the clip and the tokens that the predictor gives for the moment of the action
(``_foreseen.py``), with one query each for the verb, the noun and the action, and is trained on the sum of their focal
losses, a grid of learning rates and weight decays at once (``_sweep.py``).

Yields, for each target, ``verb/recall5`` (class-mean recall within five answers, ``_recall.py``) and ``verb/top5`` (the
share of rows); ``action/recall5_one_head`` and so on, where one head answers for all targets; with several seeds their
means. And ``predicted_tokens``, how many tokens of a clip come from the predictor; what a V-JEPA is compared with has
none.

Decisions:
- The best head is chosen for each target by itself, as released, on a share of the training recordings that no head is
  trained on. The one for all targets is the best for the last of them. ``selection: eval`` chooses on the test split,
  as published; its figures are too high and are called ``verb/recall5_chosen_on_test``.
- Classes that do not occur both in training and in the split that is measured get no votes, as released. Rows whose
  class does not occur in training stay and are wrong.
- Intervals are over recordings, of which each has many actions.
- The focal loss is summed over classes and averaged over rows.
- Features in memory are of clips that end ``seconds`` before their action, in training too; features that stream are of
  times and points that the source draws, as published.

Reference: V-JEPA 2 paper, section 6 and appendix D; Lin et al. 2017 (focal loss).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.batch import ClipBatch
from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._extract import extract
from vjepa_lab.probes._foreseen import Foreseen, Inputs
from vjepa_lab.probes._heads import Bank, Head
from vjepa_lab.probes._labelled import Encoded, Shown, labelled
from vjepa_lab.probes._recall import class_mean
from vjepa_lab.probes._stats import Estimate, accuracy, over_seeds
from vjepa_lab.probes._sweep import Feed, Memory, Plan, Rows, Swept, best, sweep, within
from vjepa_lab.registry import PROBES, SOURCES

log = logging.getLogger("vjepa_lab")

_OPTIONS = {
    "anticipation_point": ("standard", "legacy"),
    "inputs": ("both", "encoder", "predictor"),
    "features": ("memory", "stream"),
    "selection": ("split", "eval"),
}
_TOP = 5


@PROBES.register
@dataclass
class Anticipate:
    """Class-mean recall of the next action. See the module's text for what it yields."""

    every: int = 5000
    "steps between two measurements during training"
    batch: int = 16
    "clips per batch on each rank, in encoding and in training on streamed features"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "epic_kitchens"})
    "actions to train on, and to report on behind them"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to report on: the validation split; its actions_of is the training CSV"
    fit_clips: int = 1024
    "actions to train and choose on; 0: all, where test is another source"
    test_clips: int = 512
    "actions to report on; 0: all that are left"
    targets: list[str] = field(default_factory=lambda: ["verb", "noun", "action"])
    "what is anticipated, a query each; label: the label of a clip"
    seconds: float = 1.0
    "from the last frame of the clip to the action"
    anticipation_point: Literal["standard", "legacy"] = "standard"
    "the action's time: where it begins | where it ends, as the released loader has it; see the source epic_kitchens"
    inputs: Inputs = "both"
    "tokens of both | encoder | predictor"
    mask_token: int = 0
    "which of the predictor's mask tokens: 0 is the trained one; the released probes were trained with 1, which is not"
    frames: int | None = 32
    "frames per clip; null: the driver's"
    crop: int | None = None
    "pixels per side; null: the driver's"
    fps: float | None = 8.0
    "frames per second; null: the driver's"
    features: Literal["memory", "stream"] = "memory"
    "memory: encode the training clips once and keep all tokens; stream: random crops and times, encoded in every epoch"
    depth: int = 4
    "blocks of a head; 1: the cross-attention alone"
    heads: int = 16
    "attention heads, a divisor of the features' width"
    lrs: list[float] = field(default_factory=lambda: [5e-3, 3e-3, 1e-3, 3e-4, 1e-4])
    "learning rates of the grid"
    wds: list[float] = field(default_factory=lambda: [1e-4, 1e-3, 1e-2, 1e-1])
    "weight decays of the grid"
    epochs: int = 20
    "passes over the training clips"
    rows: int = 128
    "clips per step of the heads, on features in memory"
    alpha: float = 0.25
    "weight of the right class in the focal loss, 1 - alpha that of the others"
    gamma: float = 2.0
    "how much less the loss minds what is answered well"
    seeds: int = 1
    "first weights of every point of the grid"
    selection: Literal["split", "eval"] = "split"
    "where the best head is chosen: a share of the training recordings | the test split, as published"
    share: float = 0.1
    "of the training recordings, to choose on"
    race: bool = False
    "compare the heads early by their mean recall and go on with the best (``_sweep.RACE``): a grid for about two heads"

    def __post_init__(self) -> None:
        problems = [
            f"{name}: got '{getattr(self, name)}', expected {' or '.join(known)}"
            for name, known in _OPTIONS.items()
            if getattr(self, name) not in known
        ]
        for name in ("rows", "depth", "heads", "batch"):
            if getattr(self, name) < 1:
                problems.append(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not self.targets:
            problems.append("targets: got none, expected some, like [verb, noun, action]")
        if self.seconds < 0 or self.mask_token < 0 or self.gamma < 0:
            problems.append(
                f"seconds, mask_token and gamma: got {self.seconds:g}, {self.mask_token} and {self.gamma:g}, expected "
                "0 or more"
            )
        for name in ("share", "alpha"):
            if not 0 < getattr(self, name) < 1:
                problems.append(f"{name}: got {getattr(self, name)}, expected a number between 0 and 1")
        twice = sorted({"seconds", "anticipation_point"} & ({*self.source} | {*self.test}))
        if twice:
            problems.append(f"source: got {' and '.join(twice)}, expected these as fields of the probe")
        wrong = count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))
        problems += [wrong] if wrong else []
        if problems:
            raise ValueError("probe anticipate: " + "; ".join(problems))
        self._plan(0).trials()

    def demands(self) -> dict[str, Demand]:
        fit = Demand(
            self._timed(self.source),
            count=self.fit_clips or None,
            share=self.share,
            frames=self.frames,
            crop=self.crop,
            fps=self.fps,
        )
        found = fit_select_test(fit, test=self._timed(self.test), count=self.test_clips)
        return found if self.selection == "split" else {"fit": fit, "test": found["test"]}

    def refusal(self, encoder: FrozenEncoder) -> str | None:
        """Why it cannot measure this encoder: there is no predictor, or its width does not go with the heads."""
        try:
            Head("attentive", encoder.width, {"action": 2}, depth=self.depth, heads=self.heads).check()
            Foreseen(encoder, seconds=self.seconds, fps=1.0, mask_token=self.mask_token, inputs=self.inputs)
        except ValueError as error:
            return str(error)
        return None

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        foreseen = self._foreseen(encoder, streams)
        if self.features == "stream":
            if any(stream.shuffled for stream in streams.values()):
                log.warning("anticipate: shuffled is left out: features that stream have no labels to exchange")
                return
            classes = {split: _annotated(stream, self.targets) for split, stream in streams.items()}

            def seen(batch: ClipBatch) -> Tensor:
                return foreseen.tokens(batch.clip, batch.truth.get("anticipation")).tokens[:, None]

            fed: Feed = Encoded(streams["fit"], seen, self.targets)
            feeds: dict[str, Feed] = {s: Shown(x, seen, self.targets) for s, x in streams.items() if s != "fit"}
        else:
            network = foreseen.frozen()
            tables = {
                split: labelled(extract(network, stream, pool="none"), stream.name, self.targets)
                for split, stream in streams.items()
            }
            classes = {split: {name: table.y[name] for name in self.targets} for split, table in tables.items()}
            seed = dist.derive(streams["fit"].seed, "anticipate")
            device = encoder.device
            fed = Memory(tables["fit"].x[-1], classes["fit"], batch=self.rows, shuffle=seed, device=device)
            feeds = {
                split: Memory(
                    table.x[-1][:, None], {**classes[split], "unit": table.unit}, batch=self.batch, device=device
                )
                for split, table in tables.items()
                if split != "fit"
            }
        counts = {name: _count(name, streams.values(), classes) for name in self.targets}
        head = Head("attentive", encoder.width, counts, depth=self.depth, heads=self.heads)
        yield from self._trained(head, fed, feeds, _known(counts, classes), streams["fit"])
        predicted = foreseen.predicted(streams["fit"].spec.frames, streams["fit"].size)
        yield "predicted_tokens", Estimate(float(predicted))

    def _trained(
        self, head: Head, fed: Feed, feeds: Mapping[str, Feed], known: dict[str, dict[str, Tensor]], stream: Stream
    ) -> Iterator[tuple[str, Estimate]]:
        """Sweep, choose, report."""
        plan = self._plan(dist.derive(stream.seed, "heads"))
        chosen_on = "select" if self.selection == "split" else "test"

        def measured(swept: Swept) -> dict[str, Tensor]:
            return swept.measure(feeds[chosen_on], lambda bank, rows: self._measure(bank, rows, known[chosen_on]))

        def judge(swept: Swept) -> tuple[Tensor, Tensor]:
            at = measured(swept)
            recall = torch.stack([_recalls(at, name) for name in self.targets])
            return recall.mean(0), sum((at[f"{name}/loss"].mean(0) for name in self.targets), torch.zeros(()))

        race = judge if self.race else None
        swept = sweep(head, plan, fed, loss=self._loss, race=race, device=stream.device, progress=True)
        at = measured(swept)
        suffix = "" if self.selection == "split" else "_chosen_on_test"
        chosen = {name: best(swept.trials, _recalls(at, name), at[f"{name}/loss"].mean(0)) for name in self.targets}
        used = sorted({k for which in chosen.values() for k in which})
        found = swept.subset(used).measure(feeds["test"], lambda bank, rows: self._measure(bank, rows, known["test"]))
        for name, which in chosen.items():
            hits = [found[f"{name}/hit"][:, used.index(k)] for k in which]
            yield f"{name}/recall5{suffix}", over_seeds([class_mean(h, found[name], found["unit"]) for h in hits])
            yield f"{name}/top5{suffix}", over_seeds([accuracy(h, found["unit"]) for h in hits])
        for name in self.targets:
            hits = [found[f"{name}/hit"][:, used.index(k)] for k in chosen[self.targets[-1]]]
            one = [class_mean(h, found[name], found["unit"]) for h in hits]
            yield f"{name}/recall5_one_head{suffix}", over_seeds(one)

    def _measure(self, bank: Bank, rows: Rows, known: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each head makes of a batch: for each target the label, whether it is among the five, and the loss."""
        out = {"unit": rows.y["unit"]}
        for name, scores in bank.scores(rows.x[:, 0]).items():
            label, there = rows.y[name], known[name].to(scores.device)
            masked = scores.masked_fill(~there, -math.inf)
            hit = within(masked, label, _TOP) * there[label]
            out |= {name: label, f"{name}/hit": hit.T, f"{name}/loss": self._loss(scores, label).T}
        return out

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return focal(scores, labels, alpha=self.alpha, gamma=self.gamma)

    def _foreseen(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Foreseen:
        rate = streams["fit"].spec.fps
        if rate is None:
            raise ValueError("probe anticipate: got clips by stride, expected fps: it is seconds that are looked ahead")
        try:
            return Foreseen(encoder, seconds=self.seconds, fps=rate, mask_token=self.mask_token, inputs=self.inputs)
        except ValueError as error:
            raise ValueError(f"probe anticipate: {error}") from None

    def _timed(self, source: dict[str, Any]) -> dict[str, Any]:
        """The source with the times of this probe, where it knows of such."""
        if not source:
            return source
        there = {f.name for f in fields(SOURCES.get(source["name"]))}
        asked = {"seconds": self.seconds, "anticipation_point": self.anticipation_point}
        if not there >= set(asked) and self.anticipation_point != "standard":
            raise ValueError(
                f"probe anticipate: anticipation_point: got {self.anticipation_point}, but source {source['name']} "
                "knows of none; expected standard"
            )
        return {**source, **{name: value for name, value in asked.items() if name in there}}

    def _plan(self, seed: int) -> Plan:
        return Plan(self.lrs, self.wds, self.seeds, self.epochs, seed)


def focal(scores: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (K, B) of scores (K, B, C) for labels (B,), each class a question of its own, summed over classes."""
    right = F.one_hot(labels, scores.shape[-1]).to(scores.dtype).expand_as(scores)
    plain = F.binary_cross_entropy_with_logits(scores, right, reduction="none")
    missed = torch.where(right > 0, -scores, scores).sigmoid()  # 1 - p of the true answer
    return (torch.where(right > 0, alpha, 1 - alpha) * missed.pow(gamma) * plain).sum(-1)


def _recalls(at: Mapping[str, Tensor], name: str) -> Tensor:
    """Class-mean recall of each head, (K,)."""
    _, label = torch.unique(at[name], return_inverse=True)
    hit = at[f"{name}/hit"].double()
    empty = hit.new_zeros(int(label.max()) + 1, hit.shape[1])
    summed = empty.index_add(0, label, hit)
    return (summed / torch.bincount(label)[:, None]).mean(0)


def _annotated(stream: Stream, names: Sequence[str]) -> dict[str, Tensor]:
    """Targets of all rows of a stream, read or not, as the source tells them."""
    told = getattr(stream.reader, "targets", {})
    lacking = [name for name in names if name not in told]
    if lacking:
        raise ValueError(
            f"probe anticipate: {stream.name} does not say in advance what its clips are ({', '.join(lacking)}), which "
            "streaming needs; use features: memory"
        )
    return {name: torch.from_numpy(told[name][stream.rows]) for name in names}


def _count(name: str, streams: Iterable[Stream], classes: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Classes of a target: as the sources say, else as many as occur."""
    seen = max(int(y[name].max()) for y in classes.values()) + 1
    told = [getattr(s.reader, "counts", {}).get(name, len(s.classes or []) if name == "label" else 0) for s in streams]
    return max(2, seen, *told)


def _known(counts: Mapping[str, int], classes: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """By split and target, the classes that occur both in training and in that split: bool (C,)."""
    occur = {
        split: {name: torch.bincount(label, minlength=counts[name]) > 0 for name, label in y.items()}
        for split, y in classes.items()
    }
    trained = [y for split, y in occur.items() if split != "test"]
    return {
        split: {name: there & torch.stack([y[name] for y in trained]).any(0) for name, there in y.items()}
        for split, y in occur.items()
    }
