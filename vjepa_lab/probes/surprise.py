"""Intuitive physics by prediction error: is an encoder with its predictor more surprised by what cannot happen?

Films come in matched pairs, one possible and one impossible (sources ``violation``, simulated, and ``intphys``). A
window slides over the film; its first frames are encoded as a clip of their own, the predictor guesses the features of
the rest, and surprise is the mean absolute difference to the features of the whole window, layer-normed without
weights. A film's score is the mean over its windows (``max/...``: the maximum).

Yields: ``relative_accuracy``, the share of pairs in which the impossible film surprises more (ties one half, chance one
half), for all and by property (``vanish/relative_accuracy``); ``filtered/relative_accuracy``, where of all contexts the
least surprise counts; for single films, by their maximum, ``auroc``, ``auprc``, ``absolute_accuracy`` (impossible is
what surprises more than nine in ten possible films do) and ``absolute_accuracy_best`` (the best of all thresholds, an
upper bound); ``context``, the frames of context of those. The context of each property and the threshold are chosen on
one half of the scenes and all these are of the other half. On all pairs: ``context/4/relative_accuracy`` for every
length, and ``as_published/relative_accuracy``, with the best context of each property chosen on the very pairs, which
flatters. ``held/...`` is the control: the same figures where the future is guessed to be as the last
tubelet of the context was. Pairs are balanced, so that what is blind to events gets one half on average.

Decisions:
- One encoder gives both context and target, the one that is measured (by default the moving average). In training the
  context came from the encoder that the average follows.
- Predictions are not normed, targets are, as in pretraining.
- An encoder without a predictor cannot be surprised. It is refused; a control or a baseline without one (``pixels``,
  ``constant``) is left out of the table.

Reference: Garrido et al. 2025, and its released code for windows, contexts and scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vjepa_lab.data.streams import Demand, Stream
from vjepa_lab.features import FrozenEncoder, fingerprint
from vjepa_lab.jepa import normalise
from vjepa_lab.probes._extract import extract
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.probes._surprise import Films, figures
from vjepa_lab.registry import PROBES
from vjepa_lab.tokens import window_starts

_CONTEXTS = (2, 4, 6, 8, 10)
"of a window of 16"
_COLUMNS = ("pair", "possible", "property")


@PROBES.register
@dataclass
class Surprise:
    """Prediction error on possible and impossible films. See the module's text for what it yields."""

    every: int = 5000
    "steps between two measurements during training"
    batch: int = 8
    "films per batch on each rank"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "violation", "split": "val"})
    "pairs of films: violation, or intphys"
    films: int = 400
    "films to measure on; 0: all"
    film: int = 32
    "frames of a film"
    stride: int = 2
    "every n-th frame of recorded films"
    window: int | None = None
    "frames of a window; null: the encoder's"
    hop: int = 2
    "frames from one window to the next"
    contexts: list[int] = field(default_factory=list)
    "frames of context, multiples of a tubelet; none: 2, 4, 6, 8 and 10 sixteenths of the window"
    chunk: int = 32
    "windows that are encoded at once"

    def __post_init__(self) -> None:
        problems = [
            f"{name}: got {value}, expected at least 1"
            for name in ("film", "stride", "hop", "chunk")
            if (value := getattr(self, name)) < 1
        ]
        if self.films < 0:
            problems.append(f"films: got {self.films}, expected 0 (all) or more")
        if self.window is not None and not 1 < self.window <= self.film:
            problems.append(f"window: got {self.window}, expected 2 to {self.film} (film) frames")
        if problems:
            raise ValueError("probe surprise: " + "; ".join(problems))

    def demands(self) -> dict[str, Demand]:
        return {"test": Demand(self.source, count=self.films or None, frames=self.film, stride=self.stride)}

    def refusal(self, encoder: FrozenEncoder) -> str | None:
        """Why an encoder cannot be measured, if it cannot."""
        predictor = encoder.predictor
        if predictor is None:
            return (
                "this encoder came without a predictor, whose error is to be measured; expected a checkpoint of a run, "
                "or a released file of encoder and predictor"
            )
        given, wanted = predictor.predictor_proj.weight.shape[0], predictor.levels * encoder.width
        if given != wanted:
            return (
                f"its predictor gives features of width {given}, expected {wanted}, the encoder's own: it was "
                "distilled and predicts its teacher"
            )
        return None

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        refused = self.refusal(encoder)
        if refused:
            raise ValueError(f"probe surprise: {refused}")
        stream, (window, contexts) = streams["test"], self.spans(encoder)

        def measure(clip: Tensor) -> Tensor:
            return surprises(encoder, clip, window=window, hop=self.hop, contexts=contexts, chunk=self.chunk)

        assert encoder.predictor is not None
        weights = fingerprint(encoder.predictor) if stream.cache else ""  # to keep under, which training does not
        tag = f"surprise {window} {self.hop} {contexts} {weights}"
        table = extract(encoder, stream, measure=measure, tag=tag)
        missing = [name for name in _COLUMNS if name not in table.y]
        if missing:
            raise ValueError(
                f"probe surprise: source {stream.name} does not tell the {missing[0]} of a film; give the probe "
                "source: {name: violation} or {name: intphys, path: ...}"
            )
        pair, possible, kind = (table.y[name] for name in _COLUMNS)
        names = stream.classes or [str(k) for k in range(int(kind.max()) + 1)]
        for g, prefix in enumerate(("", "held/")):
            score = table.x[-1][..., g].double()
            films = Films(score, pair, possible > 0, kind, table.y.get("scene", pair))
            for metric, estimate in figures(films, contexts, names, seed=stream.seed):
                yield f"{prefix}{metric}", estimate

    def spans(self, encoder: FrozenEncoder) -> tuple[int, list[int]]:
        """Frames of a window, and of each context.

        Raises:
            ValueError: they do not fit the encoder or the film.
        """
        window, tubelet = self.window or encoder.frames, encoder.tubelet
        if window > self.film or window % tubelet or window < 2 * tubelet:
            raise ValueError(
                f"probe surprise: window: got {window} frames, expected a multiple of the tubelet ({tubelet}) from "
                f"{2 * tubelet} to the film's {self.film}"
            )
        parts = {round(window * c / 16 / tubelet) * tubelet for c in _CONTEXTS}
        contexts = self.contexts or sorted(c for c in parts if 0 < c < window)
        wrong = [c for c in contexts if c % tubelet or not 0 < c < window]
        if wrong:
            raise ValueError(
                f"probe surprise: contexts: got {wrong[0]}, expected multiples of {tubelet} frames below the window's "
                f"{window}"
            )
        return window, contexts


def surprises(
    encoder: FrozenEncoder, clip: Tensor, *, window: int, hop: int, contexts: list[int], chunk: int
) -> Tensor:
    """Prediction errors of films (B, 3, F, H, W): (B, W, C, 2), of the predictor and of the held last tubelet."""
    starts = window_starts(clip.shape[2], window, hop)
    pieces = [film[:, start : start + window] for film in clip for start in starts]
    errors = [_errors(encoder, torch.stack(pieces[i : i + chunk]), contexts) for i in range(0, len(pieces), chunk)]
    return torch.cat(errors).unflatten(0, (len(clip), len(starts)))


def _errors(encoder: FrozenEncoder, windows: Tensor, contexts: list[int]) -> Tensor:
    """Of windows (P, 3, F, H, W): (P, C, 2)."""
    tokens, grid = encoder.tokens(windows)
    target, plane, out = normalise(tokens), grid.h * grid.w, []
    for context in contexts:
        ahead = (windows.shape[2] - context) // encoder.tubelet
        seen, guess, _ = encoder.future(windows[:, :, :context], seconds=0, fps=1, tubelets=ahead)
        truth = target[:, -ahead * plane :]
        held = normalise(seen[:, -plane:]).repeat(1, ahead, 1)
        out.append(torch.stack([(g - truth).abs().mean((1, 2)) for g in (guess, held)], 1))
    return torch.stack(out, 1)
