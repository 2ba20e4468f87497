"""Painted masks, which are ragged, become rectangular batches of token ids.

The rows of a batch hide different numbers of tokens, an encoder wants equally many from each. What to leave out is a
choice with consequences, so it is made here alone and by name:

- ``head`` keeps the first ids in raster order, as many as the poorest row of the batch has. Ids count time first, so
  this drops the end of the clip: with the released masks and 24 clips per device the last tubelet keeps about 5 % of
  the context that the first one keeps, and the masks depend on the batch size. It is what the released code does
  (released file src/masks/multiseq_multiblock3d.py) and is meant for reproducing it.
- ``random`` keeps a uniform subset of each class. The number kept comes from the strategy where it states one, and
  then neither the batch size nor the number of ranks has any influence on the mask of a clip.

Both are one ranking: number the tokens of a row so that visible ones come first and hidden ones last; the context is
the front of that order and the target its back. A row with too few visible tokens takes the missing ones from the
hidden, and the other way round; as K + M <= N the two never meet.

Letters: B clips, t h w token axes, N = t*h*w, K context ids, M target ids.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from vjepa_lab.batch import MaskPair, Rng

Keep = Literal["random", "head"]
Complement = Literal["none", "target", "context"]


class Painted(NamedTuple):
    """What a strategy paints: hidden cells, and how many ids to keep if it knows that."""

    hidden: Tensor
    "bool (B, t, h, w): True = hidden = to predict"
    context: int | None = None
    "context ids that keep: random keeps; None: the smallest count in the batch"
    target: int | None = None
    "target ids that keep: random keeps; None: the smallest count in the batch"
    max_context: int | None = None
    "upper limit of context ids, for every keep"
    complement: Complement = "none"
    "which side takes all tokens that the other side, once rectangular, does not have"
    static: Tensor | None = None
    "bool (B,): clips painted without looking because nothing moves in them; None: the strategy does not look"
    saliency: Tensor | None = None
    "float (B, t, h, w): what the strategy saw, to be drawn; None: the strategy does not look"


def rectangular(painted: Painted, keep: Keep, rng: Rng) -> MaskPair:
    """Sorted disjoint ids, int64 (B, K) and (B, M), with K >= 1, M >= 1 and K + M <= N.

    Reads the device once if a count must be taken from the batch, otherwise never.

    Raises:
        ValueError: ``keep`` is none of those on offer.
    """
    hidden = painted.hidden.flatten(1)
    n = hidden.shape[1]
    ids = torch.arange(n, device=hidden.device)
    # The ranks of a row are all different: no device has ties to break in its own way.
    if keep == "head":
        # Hidden ids run backwards, so that the last of the order is the first of them.
        rank = torch.where(hidden, 2 * n - ids, ids)
    elif keep == "random":
        rank = ((rng.local.uniform(n) * 2**24).long() + hidden * 2**24) * n + ids
    elif keep == "all":
        raise ValueError("masks: keep 'all' needs rows of unequal length, which are not supported; use 'random'")
    else:
        raise ValueError(f"masks: keep is {keep!r}, expected one of {', '.join(get_args(Keep))}")
    context, target = _counts(painted, hidden, keep)
    first = rank.topk(context, dim=1, largest=False, sorted=False).indices
    last = rank.topk(target, dim=1, largest=True, sorted=False).indices
    return MaskPair(first.sort(dim=1).values, last.sort(dim=1).values)


def _counts(painted: Painted, hidden: Tensor, keep: Keep) -> tuple[int, int]:
    """K and M of a batch; ``hidden`` is bool (B, N)."""
    n = hidden.shape[1]
    context, target = painted.context, painted.target
    if keep == "head" or context is None or target is None:
        least, most = torch.stack(hidden.sum(dim=1).aminmax()).tolist()
        context = n - most if keep == "head" or context is None else context
        target = least if keep == "head" or target is None else target
    if painted.max_context is not None:
        context = min(context, painted.max_context)
    # An empty side would be a batch without a forward or without a loss: it gets one token.
    if painted.complement == "context":
        target = min(max(target, 1), n - 1)
        return n - target, target
    context = min(max(context, 1), n - 1)
    return context, n - context if painted.complement == "target" else min(max(target, 1), n - context)
