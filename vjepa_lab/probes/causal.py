"""Does an encoder know what happened, why, what comes next, and what would have been? Questions in words about videos.

Reads CLEVRER or its toy. A network on frozen features and words (``_answers.py``) is fitted on the questions about some
videos and answers those about others. A question with options is answered only if every option is judged right: per
question the chance of a coin is low, and a figure means something beside what the words alone give away.

Yields ``descriptive`` (accuracy, one of 26 answers); for each kind of question with options (``explanatory``,
``predictive``, ``counterfactual``) and for all of them together (``choice``) ``<kind>/option`` and ``<kind>/question``;
all of these again as ``words/...`` for a network of the same kind that sees no video (its features are 0); ``gain`` and
``gain_descriptive``: what the video adds to ``choice/question`` and ``descriptive``; and without any network
``coin/question``, the chance to get all options right by a coin, and ``none/question``, the share of questions none of
whose options is right.

Decisions.
- 16 frames spread over the whole video (``spread``) as the encoder sees them; features are averaged over space.
- The control ``shuffled`` pairs videos with the questions about others: what it scores above ``words`` is a leak.
- No causal claim without ``gain``: published baselines on CLEVRER lie below the coin (per question, all kinds pooled,
  a random answer by type gets 12 %).
- The defaults of sizes, epochs and seeds are those of a probe that takes a minute; the published ones are words=256,
  width=512.

Reference: CLEVRER (Yi et al. 2020), table 2; IA-JEPA for the network.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.batch import Question
from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._answers import Answers, Recipe, Said, say, train
from vjepa_lab.probes._extract import extract
from vjepa_lab.probes._mlp import Scale
from vjepa_lab.probes._questions import CHOICES, Asked, tabulate, texts_of, vocabulary
from vjepa_lab.probes._stats import Estimate, accuracy, over_seeds, share
from vjepa_lab.registry import PROBES


class Split(NamedTuple):
    """Videos and what is asked about them."""

    x: Tensor
    "(N, t, D)"
    questions: list[Sequence[Question]]
    unit: Tensor
    "int64 (N,)"
    source: str


@PROBES.register
@dataclass
class Causal:
    """Accuracy of answers to questions about videos. See the module's text for what it yields."""

    every: int = 5000
    "steps between two measurements during training"
    batch: int = 16
    "videos per batch on each rank"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "clevrer_toy", "split": "train"})
    "what to fit on: a source that knows questions about its videos, {name: clevrer} or {name: clevrer_toy}"
    test: dict[str, Any] = field(default_factory=lambda: {"name": "clevrer_toy", "split": "val"})
    "what to measure on; empty: the videos of source that follow"
    fit_clips: int = 1000
    "videos to fit and stop on; 0: all, where test is another source"
    test_clips: int = 400
    "videos to measure on; 0: all that are left"
    frames: int | None = None
    "frames per clip; null: the encoder's"
    spread: bool = True
    "frames spread evenly over the whole video"
    words: int = 64
    "width of words and texts"
    width: int = 128
    "of the hidden layers"
    epochs: int = 20
    "the best one is kept, by the loss on held-out videos"
    lr: float = 1e-3
    "of AdamW"
    seeds: int = 2
    "networks, which differ in their start and in the order of videos"
    pad_counts: bool = False
    "places without an option are options that are wrong, in training and in the figures, as in published code"

    def __post_init__(self) -> None:
        problem = count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))
        problems = [problem] if problem else []
        problems += [
            f"{name}: got {value}, expected at least 1"
            for name in ("words", "width", "epochs", "seeds")
            if (value := getattr(self, name)) < 1
        ]
        problems += [] if self.lr > 0 else [f"lr: got {self.lr}, expected above 0"]
        if problems:
            raise ValueError("probe causal: " + "; ".join(problems))
        self._floors: dict[Hashable, list[Said]] = {}

    def demands(self) -> dict[str, Demand]:
        fit = Demand(self.source, count=self.fit_clips or None, frames=self.frames, spread=self.spread)
        return fit_select_test(fit, test=self.test, count=self.test_clips)

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        splits = {name: self._split(encoder, stream) for name, stream in streams.items()}
        # what words alone say does not depend on the encoder
        same = tuple(f"{stream.digest()} {stream.shuffled}" for stream in streams.values())
        yield from self.judge(splits, same, encoder.device)

    def judge(
        self, splits: Mapping[str, Split], same: Hashable, device: torch.device
    ) -> Iterator[tuple[str, Estimate]]:
        """All figures of videos and questions of ``fit``, ``select`` and ``test``.

        Args:
            same: equal where the questions are; the network that sees no video is then not trained again.
        """
        known = vocabulary(texts_of(splits["fit"].questions))
        asked = {name: tabulate(s.questions, known, s.source) for name, s in splits.items()}
        of_x = Scale.of(splits["fit"].x.flatten(0, 1))
        x = {name: (s.x - of_x.mean) / of_x.std for name, s in splits.items()}
        test, unit = asked["test"], splits["test"].unit
        informed = self._said(x, asked, len(known) + 2, device)
        if same not in self._floors:
            blind = {name: torch.zeros(len(v), 1, 1) for name, v in x.items()}
            self._floors[same] = self._said(blind, asked, len(known) + 2, device)
        words = self._floors[same]
        yield from self._scored("", informed, test, unit)
        yield from self._scored("words/", words, test, unit)
        seeing, blind = ([self._right(said, test) for said in group] for group in (informed, words))
        yield "gain", gained([r[1].all(1) for r in seeing], [r[1].all(1) for r in blind], unit[test.about])
        yield "gain_descriptive", gained([r[0] for r in seeing], [r[0] for r in blind], unit[test.video])
        real = (test.options >= 0).sum(1).double()
        yield "coin/question", accuracy(0.5**real, unit[test.about])
        yield "none/question", accuracy(~test.correct.any(1), unit[test.about])

    def _split(self, encoder: FrozenEncoder, stream: Stream) -> Split:
        questions = getattr(stream.reader, "questions", None)
        if questions is None:
            raise ValueError(
                f"probe causal: source {stream.name} knows no questions; expected {{name: clevrer}} or "
                "{name: clevrer_toy}"
            )
        table = extract(encoder, stream, pool="tubelet")
        # of a shuffled stream this is another video
        asked = [questions(video) for video in table.y["scene"].tolist()]
        return Split(table.x[-1], asked, table.unit, stream.name)

    def _said(
        self, x: Mapping[str, Tensor], asked: Mapping[str, Asked], words: int, device: torch.device
    ) -> list[Said]:
        recipe = Recipe(words=self.words, width=self.width, epochs=self.epochs, lr=self.lr, pads=self.pad_counts)
        found = []
        for seed in range(self.seeds):
            network: Answers = train(x, asked, vocabulary=words, seed=seed, recipe=recipe, device=device)
            said = say(network, x["test"].to(device), asked["test"])
            found.append(Said(said.answer.cpu(), said.option.cpu()))
        return found

    def _scored(self, prefix: str, said: Sequence[Said], asked: Asked, unit: Tensor) -> Iterator[tuple[str, Estimate]]:
        rights = [self._right(s, asked) for s in said]
        counted = (asked.options >= 0) | self.pad_counts
        yield f"{prefix}descriptive", over_seeds([accuracy(r[0], unit[asked.video]) for r in rights])
        for kind in (*CHOICES, "choice"):
            rows = torch.ones_like(asked.kind, dtype=torch.bool) if kind == "choice" else asked.kind == _number(kind)
            if not rows.any():
                continue
            units, real = unit[asked.about[rows]], counted[rows]
            options = [share((r[1][rows] & real).sum(1), real.sum(1), units) for r in rights]
            yield f"{prefix}{kind}/option", over_seeds(options)
            yield f"{prefix}{kind}/question", over_seeds([accuracy(r[1][rows].all(1), units) for r in rights])

    def _right(self, said: Said, asked: Asked) -> tuple[Tensor, Tensor]:
        """Which descriptive questions (n,) and options (m, C) are answered right; places without an option are."""
        options = (said.option > 0) == asked.correct
        there = (asked.options >= 0) | self.pad_counts
        return said.answer.argmax(1) == asked.answer, options | ~there


def _number(kind: str) -> int:
    return CHOICES.index(kind)


def gained(more: Sequence[Tensor], less: Sequence[Tensor], unit: Tensor) -> Estimate:
    """Mean difference of what two groups of networks, one per seed, get right (n,), with its own interval."""
    return over_seeds([accuracy(a.double() - b.double(), unit) for a, b in zip(more, less, strict=True)])
