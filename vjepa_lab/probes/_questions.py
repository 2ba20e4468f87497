"""Questions as tables of numbers: words by a vocabulary, answers by number, options beside each other.

Words are what whitespace and punctuation separate, in small letters. The vocabulary is that of the questions that are
fitted, the commonest first and equals by the alphabet, so that it does not depend on the order of the data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vjepa_lab.batch import Question

CHOICES = ("explanatory", "predictive", "counterfactual")
"kinds of questions with options"
ANSWERS = (
    *("cube", "cylinder", "sphere"),
    *("blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow"),
    *("metal", "rubber"),
    *("yes", "no"),
    *map(str, range(11)),
)
"answers of descriptive questions"
_MOST_WORDS = 2000
_UNKNOWN = 1
"0 is no word"


class Asked(NamedTuple):
    """Questions about N videos. T texts of at most L words; n descriptive questions; m with up to C options."""

    words: Tensor
    "int64 (T, L), 0 behind the end"
    length: Tensor
    "int64 (T,)"
    video: Tensor
    "int64 (n,) which video a descriptive question is about, 0 .. N - 1, ascending"
    text: Tensor
    "int64 (n,)"
    answer: Tensor
    "int64 (n,) in ``ANSWERS``"
    about: Tensor
    "int64 (m,) which video a question with options is about, ascending"
    question: Tensor
    "int64 (m,) its text"
    options: Tensor
    "int64 (m, C) texts, -1: there is none"
    correct: Tensor
    "bool (m, C)"
    kind: Tensor
    "int64 (m,) in ``CHOICES``"


def split_words(text: str) -> list[str]:
    """The words and signs of a text."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary(texts: Iterable[str]) -> dict[str, int]:
    """Number of each word, from 2."""
    counts = Counter(word for text in texts for word in split_words(text))
    common = sorted(counts, key=lambda word: (-counts[word], word))[: _MOST_WORDS - 2]
    return {word: number for number, word in enumerate(common, 2)}


def texts_of(questions: Iterable[Sequence[Question]]) -> list[str]:
    """All that is to be read, with repetitions."""
    return [text for asked in questions for q in asked for text in (q.text, *q.choices)]


def tabulate(questions: Sequence[Sequence[Question]], known: dict[str, int], source: str) -> Asked:
    """The questions about each of N videos.

    Args:
        known: the vocabulary.
        source: names the source in errors.

    Raises:
        ValueError: an answer is withheld or none that is known, or questions of a kind are missing.
    """
    places = {text: place for place, text in enumerate(dict.fromkeys(texts_of(questions)))}
    described = [(v, q) for v, asked in enumerate(questions) for q in asked if q.kind == "descriptive"]
    chosen = [(v, q) for v, asked in enumerate(questions) for q in asked if q.kind != "descriptive"]
    numbers = {answer: number for number, answer in enumerate(ANSWERS)}
    for _, q in (*described, *chosen):
        if q.kind == "descriptive" and q.answer not in numbers:
            raise ValueError(f"source {source}: '{q.text}': answer: got '{q.answer}', expected one of {ANSWERS}")
        if q.kind != "descriptive" and (not q.choices or len(q.correct) != len(q.choices)):
            raise ValueError(
                f"source {source}: '{q.text}': got {len(q.choices)} options and {len(q.correct)} answers, expected as "
                "many, and some; of the test split the answers are withheld"
            )
    if not described or not chosen:
        raise ValueError(
            f"source {source}: got {len(described)} descriptive questions and {len(chosen)} with options, expected "
            "some of both"
        )
    most = max(len(q.choices) for _, q in chosen)
    split = [[known.get(word, _UNKNOWN) for word in split_words(text)] or [_UNKNOWN] for text in places]
    longest = max(map(len, split))
    return Asked(
        words=torch.tensor([numbers + [0] * (longest - len(numbers)) for numbers in split]),
        length=torch.tensor([len(numbers) for numbers in split]),
        video=torch.tensor([v for v, _ in described]),
        text=torch.tensor([places[q.text] for _, q in described]),
        answer=torch.tensor([numbers[q.answer] for _, q in described]),
        about=torch.tensor([v for v, _ in chosen]),
        question=torch.tensor([places[q.text] for _, q in chosen]),
        options=torch.tensor([[*(places[c] for c in q.choices), *[-1] * (most - len(q.choices))] for _, q in chosen]),
        correct=torch.tensor([[*q.correct, *[False] * (most - len(q.choices))] for _, q in chosen]),
        kind=torch.tensor([CHOICES.index(q.kind) for _, q in chosen]),
    )
