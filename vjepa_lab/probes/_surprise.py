"""Is the impossible more surprising? Scores of films and of matched pairs, from the surprise of each of their windows.

Letters: n films, W windows of a film, C lengths of context, P pairs.

The score of a film is the mean of its windows, or their maximum. ``relative``: in which share of the pairs the
impossible film scores higher, a tie being one half. Ties are scores within rounding (1e-6) of each other; a model that
is never surprised, or always equally, gets one half and not nothing.

What has to be chosen (the length of the context, for each property; a threshold for single films) is chosen on one half
of the scenes and reported on the other. Scenes are drawn for the halves within each property.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.probes import _stats
from vjepa_lab.probes._choice import Partners, partners
from vjepa_lab.probes._stats import Estimate

_TIE = 1e-6
"share of a score within which two are equal"
_ALARM = 0.9
"share of possible films that the threshold lets pass"


How = Literal["mean", "max"]


class Films(NamedTuple):
    """Films of pairs, in any order."""

    score: Tensor
    "(n, W, C) surprise of each window for each length of context"
    pair: Tensor
    "int64 (n,)"
    possible: Tensor
    "bool (n,)"
    property: Tensor
    "int64 (n,)"
    scene: Tensor
    "int64 (n,): what intervals are over"

    def of(self, which: Tensor) -> Films:
        """Some of them."""
        return Films(*(x[which] for x in self))


def of_film(score: Tensor, how: How) -> Tensor:
    """Scores of films (n, C) from those of their windows (n, W, C)."""
    return score.mean(1) if how == "mean" else score.amax(1)


def relative(score: Tensor, pairs: Partners) -> Tensor:
    """Whether the impossible film of each pair scores higher, a tie is one half: (P, ...) from scores (n, ...). The
    possible one is the first of the pair."""
    good, bad = score[pairs.first].double(), score[pairs.second].double()
    tie = (good - bad).abs() <= _TIE * torch.maximum(good.abs(), bad.abs())
    return torch.where(tie, 0.5, (good < bad).double())


def halves(films: Films, seed: int) -> Tensor:
    """Which films are of the half that choices are made on: whole scenes, half of those of each property. bool (n,).

    Raises:
        ValueError: no property has two scenes.
    """
    chosen: list[int] = []
    for kind in films.property.unique().tolist():
        scenes = films.scene[films.property == kind].unique()
        draws = torch.Generator().manual_seed(dist.derive(seed, "surprise", kind, len(scenes)))
        chosen += scenes[torch.randperm(len(scenes), generator=draws)[: len(scenes) // 2]].tolist()
    if not chosen:
        raise ValueError(
            f"surprise: got {len(films.scene.unique())} scenes, expected at least two of a property: choices are made "
            "on one half and reported on the other"
        )
    return torch.isin(films.scene, torch.tensor(chosen))


def figures(
    films: Films, contexts: Sequence[int], properties: Sequence[str], *, seed: int = 0
) -> Iterator[tuple[str, Estimate]]:
    """All figures, by name; the text of the probe ``surprise`` says what they are.

    Args:
        contexts: (C,) frames of context.
        properties: names by number.

    Raises:
        ValueError: as ``partners`` and ``halves``.
    """
    choosing = halves(films, seed)
    dev, rest = films.of(choosing), films.of(~choosing)
    pairs = partners(rest.pair, rest.possible)
    scene, kind = rest.scene[pairs.first], rest.property[pairs.first]
    names: dict[How, str] = {"mean": "", "max": "max/"}
    for how, name in names.items():
        right = _at_chosen(dev, rest, pairs, how)
        yield f"{name}relative_accuracy", _stats.accuracy(right, scene)
        if not name:
            for number in kind.unique().tolist():
                of = kind == number
                yield f"{properties[number]}/relative_accuracy", _stats.accuracy(right[of], scene[of])
    least = rest.score.amin(2)
    yield "filtered/relative_accuracy", _stats.accuracy(relative(least.mean(1), pairs), scene)
    best = int(relative(of_film(dev.score, "max"), partners(dev.pair, dev.possible)).mean(0).argmax())
    yield "context", Estimate(float(contexts[best]))
    yield from _single(of_film(dev.score, "max")[:, best], dev, of_film(rest.score, "max")[:, best], rest)
    yield from _published(films, contexts)


def _at_chosen(dev: Films, rest: Films, pairs: Partners, how: How) -> Tensor:
    """Of each pair (P,): is it ordered rightly, with the context that is best for its property on the other half?"""
    known = partners(dev.pair, dev.possible)
    right = relative(of_film(dev.score, how), known)
    found = relative(of_film(rest.score, how), pairs)
    kind, out = rest.property[pairs.first], torch.empty(len(found), dtype=torch.float64)
    for number in kind.unique().tolist():
        own = dev.property[known.first] == number
        best = (right[own] if own.any() else right).mean(0).argmax()
        out[kind == number] = found[kind == number, best]
    return out


def _single(known: Tensor, dev: Films, score: Tensor, rest: Films) -> Iterator[tuple[str, Estimate]]:
    """Films one by one, by scores (n,) of both halves: is it impossible?"""
    threshold = torch.quantile(known[dev.possible].double(), _ALARM)
    impossible = ~rest.possible
    yield "auroc", _stats.auroc(score, impossible, rest.scene)
    yield "auprc", Estimate(average_precision(score, impossible), units=len(rest.scene.unique()))
    yield "absolute_accuracy", _stats.accuracy((score > threshold) == impossible, rest.scene)
    every = torch.cat((score, score.amin()[None] - 1))
    best = max(((score > t) == impossible).double().mean().item() for t in every.unique())
    yield "absolute_accuracy_best", Estimate(best, units=len(rest.scene.unique()))


def _published(films: Films, contexts: Sequence[int]) -> Iterator[tuple[str, Estimate]]:
    """All pairs, context by context; and with the best context of each property, chosen on what it is reported on."""
    pairs = partners(films.pair, films.possible)
    scene = films.scene[pairs.first]
    right = relative(of_film(films.score, "mean"), pairs)
    for c, context in enumerate(contexts):
        yield f"context/{context}/relative_accuracy", _stats.accuracy(right[:, c], scene)
    yield "as_published/relative_accuracy", _stats.accuracy(_at_chosen(films, films, pairs, "mean"), scene)


def average_precision(score: Tensor, positive: Tensor) -> float:
    """Area under the curve of precision over recall, by steps; equal scores are one step. NaN without positives."""
    values, inverse = torch.unique(-score.double(), return_inverse=True)
    hits = torch.zeros(len(values), dtype=torch.float64).index_add_(0, inverse, positive.double())
    drawn = torch.bincount(inverse).double().cumsum(0)
    return (hits * hits.cumsum(0) / drawn).sum().item() / hits.sum().item() if hits.sum() else float("nan")
