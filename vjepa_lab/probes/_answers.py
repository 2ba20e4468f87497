"""A network that answers questions about videos from frozen features and words.

Of a video it sees the features of its t tubelets: a convolution over time (3 wide, ReLU) after a learned position,
averaged over time. Words are embedded and read by a GRU, whose last state is the text. Both together, and for a
question with options the text of an option as well, go through one hidden layer: to the 26 answers of descriptive
questions, or to one logit per option.

Decisions.
- One network answers all kinds of questions; the cross-entropy of the descriptive ones and the binary one of all
  options are added.
- A batch is all questions about some videos, not questions at random: videos and texts that come again are read once.
- After each epoch the loss on held-out videos is taken; the weights of the best epoch are kept.
- The published code counts places without an option as wrong options. ``pads`` does that too, for parity.

Reference: the code of IA-JEPA, as far as its sizes and optimiser go.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from vjepa_lab import dist
from vjepa_lab.probes._questions import ANSWERS, Asked

_EVALUATED = 64
"videos at once where nothing is trained"


class Recipe(NamedTuple):
    """Sizes, and how the network is trained."""

    words: int = 256
    "width of words and texts"
    width: int = 512
    "of what is seen of a video, and of the hidden layers"
    epochs: int = 20
    lr: float = 1e-3
    weight_decay: float = 0.01
    videos: int = 24
    "whose questions make a batch: about 256 questions"
    pads: bool = False
    "places without an option count as options that are wrong"


class Said(NamedTuple):
    """What a network says about all questions of a split."""

    answer: Tensor
    "float (n, 26) scores of the answers of descriptive questions"
    option: Tensor
    "float (m, C) logits of the options"


class _Part(NamedTuple):
    """The questions about some videos."""

    rows: Tensor
    "which videos"
    described: Tensor
    "which descriptive questions"
    chosen: Tensor
    "which questions with options"


class Answers(nn.Module):
    """See the module's text."""

    def __init__(self, *, features: int, tubelets: int, vocabulary: int, words: int, width: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(tubelets, features))
        self.look = nn.Conv1d(features, width, 3, padding=1)
        self.embed = nn.Embedding(vocabulary, words, padding_idx=0)
        self.read = nn.GRU(words, words, batch_first=True)
        self.describe = nn.Sequential(nn.Linear(width + words, width), nn.ReLU(), nn.Linear(width, len(ANSWERS)))
        self.choose = nn.Sequential(nn.Linear(width + 2 * words, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor, asked: Asked, part: _Part) -> Said:
        """Answers to the questions of a part; x (N, t, D) has all videos of the split."""
        seen = F.relu(self.look((x[part.rows] + self.position).transpose(1, 2))).mean(2)  # (V, width)
        options = asked.options[part.chosen]
        told, place = torch.cat(
            [asked.text[part.described], asked.question[part.chosen], options.clamp_min(0).flatten()]
        ).unique(return_inverse=True)
        texts = self._texts(asked.words[told], asked.length[told])
        n, m = len(part.described), len(part.chosen)
        of_text, of_question, of_option = texts[place].split([n, m, options.numel()])
        where = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        where[part.rows] = torch.arange(len(part.rows), device=x.device)
        described = torch.cat([seen[where[asked.video[part.described]]], of_text], 1)
        question = torch.cat([seen[where[asked.about[part.chosen]]], of_question], 1)
        each = question.repeat_interleave(options.shape[1], 0)
        logits = self.choose(torch.cat([each, of_option], 1)).view(m, options.shape[1])
        return Said(self.describe(described), logits)

    def _texts(self, words: Tensor, length: Tensor) -> Tensor:
        """Last states (T, words) of texts."""
        states, _ = self.read(self.embed(words[:, : int(length.max())]))
        return states[torch.arange(len(words), device=words.device), length - 1]


def train(
    x: Mapping[str, Tensor],
    asked: Mapping[str, Asked],
    *,
    vocabulary: int,
    seed: int,
    recipe: Recipe,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Answers:
    """A network fitted on ``fit`` and stopped by ``select``: features (N, t, D) and questions by split.

    Args:
        vocabulary: number of words, the two that are none included.
        seed: of first weights and of the order of videos.
    """
    x = {split: features.to(device) for split, features in x.items()}
    asked = {split: _to(a, device) for split, a in asked.items()}
    features, tubelets = x["fit"].shape[2], x["fit"].shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dist.derive(seed, "answers"))
        network = Answers(
            features=features, tubelets=tubelets, vocabulary=vocabulary, words=recipe.words, width=recipe.width
        )
    network.to(device)
    generator = torch.Generator().manual_seed(dist.derive(seed, "order of videos"))
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    best, kept = torch.inf, network.state_dict()
    for _ in tqdm(range(recipe.epochs), desc="answers", unit="epoch", disable=not progress, leave=False):
        order = torch.randperm(len(x["fit"]), generator=generator).to(device)
        with torch.enable_grad():
            for part in _parts(asked["fit"], order, recipe.videos):
                loss = _loss(network(x["fit"], asked["fit"], part), asked["fit"], part, recipe.pads)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        everything = _Part(*(torch.arange(n, device=device) for n in _sizes(asked["select"], x["select"])))
        left = _loss(say(network, x["select"], asked["select"]), asked["select"], everything, recipe.pads).item()
        if left < best:
            best, kept = left, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return network


@torch.no_grad()
def say(network: Answers, x: Tensor, asked: Asked) -> Said:
    """What a network says about all questions of a split, on the device of ``x``."""
    order = torch.arange(len(x), device=x.device)
    asked = _to(asked, x.device)
    parts = list(_parts(asked, order, _EVALUATED))
    said = [network(x, asked, part) for part in parts]
    # videos come in order, and so do the questions about them
    return Said(torch.cat([s.answer for s in said]), torch.cat([s.option for s in said]))


def _loss(said: Said, asked: Asked, part: _Part, pads: bool) -> Tensor:
    options, correct = asked.options[part.chosen], asked.correct[part.chosen].float()
    counted = torch.ones_like(correct) if pads else (options >= 0).float()
    described = F.cross_entropy(said.answer, asked.answer[part.described], reduction="sum")
    chosen = F.binary_cross_entropy_with_logits(said.option, correct, weight=counted, reduction="sum")
    return described / max(len(part.described), 1) + chosen / counted.sum().clamp_min(1)


def _parts(asked: Asked, order: Tensor, videos: int) -> Iterator[_Part]:
    """The questions, some videos at a time; of the last ones what is left."""
    for rows in order.split(videos):
        among = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        among[rows] = True
        yield _Part(rows, torch.nonzero(among[asked.video]).flatten(), torch.nonzero(among[asked.about]).flatten())


def _sizes(asked: Asked, x: Tensor) -> tuple[int, int, int]:
    return len(x), len(asked.video), len(asked.about)


def _to(asked: Asked, device: torch.device | str) -> Asked:
    return Asked(*(values.to(device) for values in asked))
